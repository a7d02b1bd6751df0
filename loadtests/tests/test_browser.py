"""The browser UI, used as a person does: everything is filled in, Start, a chart that moves, Stop."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from locust_verdict.record import Event, Requests, read
from tooling.project import ROOT
from tooling.service import answers, free_port
from tooling.tools import known

CHROMIUM = known()["chromium"].path()
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.load,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on PATH"),
]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Yield a headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1200"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def user_interface(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Start the load tests with their browser UI, and a service of their own."""
    command = [sys.executable, "-m", "loadtests", "--browser", f"--web-port={port}", f"--output={folder}"]
    command += ["--shape=spike", "--users=8", "--rate=25", "--run-time=10m"]
    environment = {**os.environ, "BROWSER": "true"}  # "opened" by a program that does nothing
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("terminal")
def test_start_chart_and_stop(browser: webdriver.Chrome, tmp_path: Path) -> None:
    port = free_port()
    with user_interface(tmp_path, port) as process:
        wait = WebDriverWait(browser, 120, ignored_exceptions=[Exception])
        wait.until(lambda _: answers(f"http://127.0.0.1:{port}"))
        browser.get(f"http://127.0.0.1:{port}")

        wait.until(lambda b: b.find_element(By.NAME, "host").get_attribute("value"))
        elements = browser.find_elements(By.CSS_SELECTOR, "[name]")
        fields = {str(element.get_attribute("name")): str(element.get_attribute("value")) for element in elements}
        browser.save_screenshot(str(tmp_path / "start.png"))
        assert fields["host"].startswith("http://127.0.0.1:")
        assert (fields["userCount"], fields["shape"], fields["rate"]) == ("8", "spike", "25"), fields

        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        wait.until(lambda b: "GET /tasks" in b.find_element(By.TAG_NAME, "table").text)
        wait.until(lambda b: b.find_element(By.XPATH, "//*[@role='tab' and contains(., 'Charts')]")).click()
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "canvas, svg path[stroke]")) > 0)
        wait.until(lambda _: sum(isinstance(entry, Requests) for entry in read(tmp_path / "record.jsonl")) > 50)
        browser.save_screenshot(str(tmp_path / "chart.png"))

        browser.find_element(By.XPATH, "//button[contains(translate(., 'STOP', 'stop'), 'stop')]").click()
        wait.until(lambda b: "STOPPED" in b.find_element(By.TAG_NAME, "body").text.upper())
        browser.save_screenshot(str(tmp_path / "stopped.png"))

        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert "browser UI: http://127.0.0.1" in output
    assert process.returncode in (0, 1, 2)
    kinds = {entry.kind for entry in read(tmp_path / "record.jsonl") if isinstance(entry, Event)}
    assert kinds & {"pass", "fail", "inconclusive"}
    assert (tmp_path / "report.html").exists()
