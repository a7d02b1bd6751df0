"""The order of a deploy's steps, and its way back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tooling.deploy import DeployError, archive, cluster, keda, manifests, operator, recovery, rollout, verify
from tooling.deploy.kube import Change, Kube, Object
from tooling.deploy.steps import Log, Steps
from tooling.project import Service, migrating, service

KNOWN_SECONDS, NEW_SECONDS = 60, 900
"""How long an address may take to answer that has answered before, and one that has not."""


@dataclass(frozen=True)
class Target:
    """Where to deploy what: an overlay of a service, a namespace of a cluster, and whether that is the local one."""

    overlay: Path
    kube: Kube
    local: bool
    service: Service
    address: str = ""
    """The service's base URL; by default the node port of the local cluster, elsewhere the host of the Ingress."""

    place: archive.Place | None = None
    """Where the database is archived."""

    @classmethod
    def of(
        cls,
        overlay: str,
        context: str = "",
        name: str = "",
        address: str = "",
        *,
        database: str = "",
        place: str = "",
    ) -> "Target":
        """Read the command line; without `context` the local cluster is meant. Raises `DeployError`."""
        one = service(name)
        folder = manifests.overlay_folder(one, overlay)
        if not context and folder.name in ("eks", "gke"):
            raise DeployError(
                f"the overlay {overlay} needs a cluster: name its kubectl context (`kubectl config get-contexts`)"
            )
        kube = Kube(context or cluster.CONTEXT, one.name)
        return cls(
            manifests.with_database(folder, database, archived=bool(place)),
            kube,
            local=not context,
            service=one,
            address=address,
            place=archive.Place.of(place) if place else None,
        )

    def url(self) -> str:
        """Return the service's base URL. Raises `DeployError` where no Ingress has a host."""
        if self.address or self.local:
            return self.address or f"http://127.0.0.1:{self.service.node_port}"
        ingress = self.kube.get("ingress", self.service.name)
        if ingress is None:
            raise DeployError(f"the overlay has no ingress/{self.service.name} with a host: name the address by --url")
        return f"https://{ingress['spec']['rules'][0]['host']}"


def deploy(target: Target, image: str, steps: Steps) -> None:
    """Bring the cluster to what the overlay describes with `image`, and prove that it works.

    `image` is checked before. Raises `DeployError` when it does not come up; then what served before serves again.
    """
    kube = target.kube
    if target.local:
        with steps.step("kind cluster") as log:
            cluster.create(log)
    in_use = images_in_use(kube)
    objects = manifests.render(
        target.service,
        kube,
        target.overlay,
        image,
        generate_secrets=target.local,
        in_use=in_use,
        place=target.place,
    )
    check_archive(target, objects)
    monitoring = manifests.of_stage(objects, "monitoring")
    if target.local:
        with steps.step("copy images into the cluster") as log:
            load_images([item for item in objects if item not in monitoring], log)
        cluster.install_metrics_server()
    wait_for_the_end_of(kube, steps)
    if target.local:
        cluster.free_backup_volume(kube, target.service.name)
    check_references(kube, objects)
    check_database(kube, objects)
    check_owner(target)
    provide_operators(target, objects, steps)
    with steps.step("namespace, settings, secrets, network policies") as log:
        show(steps, kube.apply([item for item in objects if item["kind"] == "Namespace"]))
        show(
            steps,
            kube.apply([item for item in manifests.of_stage(objects, "foundation") if item["kind"] != "Namespace"]),
        )
        kube.apply(operator.authority(kube, manifests.clusters(objects)))
        wait_for_secrets(kube, objects)
    if database := manifests.of_stage(objects, "database"):
        with steps.step("PostgreSQL") as log:
            show(steps, kube.apply(database))
            wait_for(kube, database, log)
    if manifests.clusters(objects):
        begin_archive(kube, manifests.of_stage(objects, "archive"), steps)
    for job in manifests.of_stage(objects, "migration"):
        with steps.step("migration") as log:
            run_migration(kube, job, log)
    if target.local:
        with steps.step("metrics-server") as log:
            cluster.serve_metrics(log)
    roll_out(target, manifests.of_stage(objects, "service"), steps)
    if monitoring:
        deploy_monitoring(target, monitoring, steps)
    with steps.step("remove settings that no revision uses") as log:
        removed = prune(kube, objects, target.service.name)
        log(f"{len(removed)} removed")


def begin_archive(kube: Kube, backups: Sequence[Object], steps: Steps) -> None:
    """Prove that segments reach the archive, and a first base backup; or report that there is none."""
    if not backups:
        steps.log(
            "    WARNING: the database has no archive, so that no moment of it can be recovered: --archive s3://…"
        )
        return
    with steps.step("archive") as log:
        show(steps, kube.apply(backups))
        name = manifests.cluster_in_place(kube)
        verify.until(lambda: archive.unequipped(kube, name), log, timeout=archive.EQUIPPED_SECONDS)
        recovery.flush(kube, name, log)
        archive.first_backup(kube, name, log)


def check_references(kube: Kube, objects: Sequence[Object]) -> None:
    """Raise `DeployError` where pods need settings or secrets that nobody has made."""
    if lacking := manifests.missing(kube, objects):
        raise DeployError(
            f"the namespace {kube.namespace} has no {', '.join(lacking)}: make them first (docs/deploy.md shows how); "
            "nothing was changed"
        )


def load_images(objects: Sequence[Object], log: Log) -> None:
    """Bring the images of the objects' pods into the local cluster."""
    if databases := manifests.clusters(objects):
        plugin = {archive.IMAGE, archive.SIDECAR} if manifests.of_stage(objects, "archive") else set()
        cluster.load({operator.IMAGE, *plugin, *manifests.images(databases)}, log, everywhere=True)
    cluster.load(manifests.images(objects), log)


def provide_operators(target: Target, objects: Sequence[Object], steps: Steps) -> None:
    """Provide the operators whose objects are deployed. Raises `DeployError` where another cluster lacks one."""
    if manifests.clusters(objects):
        with steps.step("CloudNativePG") as log:
            provide_database_operator(target, log)
    if any(item["kind"] == keda.KIND for item in objects):
        with steps.step("KEDA") as log:
            provide_keda(target, log)


def provide_database_operator(target: Target, log: Log) -> None:
    """Install CloudNativePG in the local cluster, and its plugin where the database is archived.

    Raises `DeployError` where another cluster does not have them.
    """
    if target.local:
        operator.install(target.kube.context, log)
        if target.place:
            archive.install(target.kube.context, log)
        return
    if not operator.installed(target.kube):
        raise DeployError(f"{target.kube.context} has no CloudNativePG: install it first, from {operator.URL}")
    if target.place and not archive.installed(target.kube):
        raise DeployError(
            f"{target.kube.context} has no barman-cloud plugin: install {archive.VERSION} first, beside CloudNativePG"
        )


def provide_keda(target: Target, log: Log) -> None:
    """Install KEDA in the local cluster. Raises `DeployError` where another cluster does not have it."""
    if target.local:
        cluster.load([f"{image}:{keda.VERSION}" for image in keda.IMAGES], log)
        keda.install(target.kube, log)
    else:
        keda.check(target.kube)


def check_archive(target: Target, objects: Sequence[Object]) -> None:
    """Raise `DeployError` where the deploy would end an archive, move it, or put another major version into it."""
    place = archive.place_of(target.kube)
    end = f"`kubectl --namespace {target.kube.namespace} delete {archive.STORE} {archive.NAME}`"
    if place and manifests.clusters(objects) and place != (target.place.url if target.place else ""):
        raise DeployError(
            f"the database is archived in {place}: add --archive {place}; or end that with {end}; nothing was changed"
        )
    for item in manifests.clusters(objects) if place else []:
        if upgraded := rollout.upgrade(target.kube, item):
            raise DeployError(
                f"the database is archived in {place}, and an archive is of one major version, not of {upgraded}: end "
                f"it with {end}, deploy without --archive, then with --archive at another place; nothing was changed"
            )


def check_database(kube: Kube, objects: Sequence[Object]) -> None:
    """Raise `DeployError` where the namespace has the other database: nobody would move its content."""
    replicated = operator.installed(kube) and bool(kube.find(rollout.CLUSTER))
    single = kube.get("statefulset", manifests.DATABASE) is not None
    in_place = manifests.cluster_in_place(kube)
    choices = {item["kind"] for item in objects if item["metadata"]["name"] in (manifests.DATABASE, in_place)}
    if (replicated and "StatefulSet" in choices) or (single and "Cluster" in choices):
        there, way = ("replicated", "add --database replicated") if replicated else ("single", "leave --database out")
        raise DeployError(
            f"the database in {kube.namespace} is {there}: {way}; or move to the other one: `./dev cluster-backup`, "
            f"`kubectl delete namespace {kube.namespace}`, deploy with the other, `./dev cluster-restore`; "
            "nothing was changed"
        )


def check_owner(target: Target) -> None:
    """Raise `DeployError` where a local service uses the database of another one that is not there yet."""
    one = target.service
    if not (target.local and one.database) or (owner := migrating(one)) == one:
        return
    if replace(target.kube, namespace=owner.name).get("deployment", owner.name) is None:
        raise DeployError(
            f"{one.name} uses the database of {owner.name}, which is not deployed: `./dev deploy --name {owner.name}` "
            "first; nothing was changed"
        )


def images_in_use(kube: Kube) -> set[str]:
    """Return the images of what is in the namespace.

    While they are replaced, pods may have to be made again from them; and admission policies apply even where a
    controller takes the finalizer off a Job that is being deleted.
    """
    return manifests.images(kube.find("pod,deployment,replicaset,statefulset,job,cronjob"))


def deploy_monitoring(target: Target, objects: Sequence[Object], steps: Steps) -> None:
    """Apply the monitoring, and prove that Prometheus scrapes every pod of the service."""
    with steps.step("monitoring") as log:
        if target.local:
            cluster.load(manifests.images(objects), log)
        show(steps, target.kube.apply(objects))
        wait_for(target.kube, objects, log)
        verify.scraped(target.kube, target.service.name, log)
    if warning := verify.unreceived(target.kube, objects):
        steps.log(f"    {warning}")


def migrate(target: Target, log: Log) -> None:
    """Migrate the database to the schema of the deployed version, after a restore."""
    deployment = target.kube.get("deployment", target.service.name)
    if deployment is None:
        raise DeployError("nothing is deployed, so there is no version to migrate for")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    objects = manifests.render(target.service, target.kube, target.overlay, image, generate_secrets=target.local)
    for job in manifests.of_stage(objects, "migration"):
        run_migration(target.kube, job, log)


def run_migration(kube: Kube, job: Object, log: Log) -> None:
    """Run the migration to its end. Raises `DeployError` with its log when it fails."""
    name = job["metadata"]["name"]
    kube.run("delete", "job", name, "--ignore-not-found", "--cascade=foreground", "--timeout=120s")
    kube.apply([job])
    try:
        rollout.wait(kube, "job", name, log)
    except DeployError as error:
        raise DeployError(f"{error}\nno pod was changed: what served before still serves", error.evidence) from error
    log(kube.run("logs", f"job/{name}", "--tail=1").strip())


def wait_for_the_end_of(kube: Kube, steps: Steps) -> None:
    """Wait for a namespace that is being deleted."""
    namespace = kube.get("namespace", kube.namespace)
    if namespace and namespace["status"]["phase"] == "Terminating":
        with steps.step("the end of the namespace that is being deleted"):
            kube.run("wait", f"namespace/{kube.namespace}", "--for=delete", "--timeout=180s")


def wait_for_secrets(kube: Kube, objects: Sequence[Object]) -> None:
    """Wait until the secret store has answered for each Secret that an ExternalSecret makes. Raises `DeployError`."""
    for item in objects:
        if item["kind"] == "ExternalSecret":
            kube.run("wait", f"externalsecret/{item['metadata']['name']}", "--for=condition=Ready", "--timeout=120s")


def wait_for(kube: Kube, objects: Sequence[Object], log: Log) -> None:
    """Wait for all Deployments, StatefulSets and clusters of PostgreSQL."""
    for item in objects:
        if item["kind"] == "Cluster":
            rollout.wait(kube, rollout.CLUSTER, item["metadata"]["name"], log)
        if item["kind"] in ("Deployment", "StatefulSet"):
            rollout.wait(kube, item["kind"].lower(), item["metadata"]["name"], log)


def roll_out(target: Target, objects: Sequence[Object], steps: Steps) -> None:
    """Apply the service and prove it; when it does not come up, go back to the revision that served before."""
    kube, name = target.kube, target.service.name
    before = kube.get("deployment", name)
    revision = rollout.revision(before) if before else 0
    timeout = patience(target)
    try:
        with steps.step("roll out") as log:
            show(steps, apply_service(kube, objects, first=before is None))
            wait_for(kube, objects, log)
        with steps.step("first answer from outside") as log:
            verify.answers(target.url(), log, timeout=timeout)
        steps.mark("first 200")
        if target.service.accounts:
            with steps.step("write and read a task") as log:
                verify.task_round(target.url(), verify.account(kube), log)
        if any(item["kind"] in manifests.AUTOSCALERS for item in objects):
            with steps.step("autoscaler reads real numbers") as log:
                verify.autoscaler_reads(kube, name, log)
    except DeployError as error:
        raise DeployError(f"{error}\n{go_back(kube, name, revision, steps)}", error.evidence) from error


def patience(target: Target) -> float:
    """Return the seconds in which the address has to answer: new load balancers and certificates take minutes."""
    if target.local:
        return KNOWN_SECONDS
    try:
        verify.answers(target.url(), lambda _news: None, timeout=0)
    except DeployError:
        return NEW_SECONDS
    return KNOWN_SECONDS


def apply_service(kube: Kube, objects: Sequence[Object], *, first: bool) -> list[Change]:
    """Apply the workloads. The first time the manifest sets the number of pods, afterwards the autoscaler does."""
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in objects if item["kind"] in manifests.AUTOSCALERS}
    deployments = [item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] in scaled]
    if first:
        changes = kube.apply(objects)
        for item in deployments:
            kube.hand_over_replicas(item)
        return changes
    for item in deployments:
        item["spec"].pop("replicas", None)
    return kube.apply(objects)


def go_back(kube: Kube, name: str, revision: int, steps: Steps) -> str:
    """Undo a failed rollout; return what was done."""
    deployment = kube.get("deployment", name)
    if not revision:
        return "this was the first deploy: there is nothing to go back to"
    if deployment is None or rollout.revision(deployment) == revision:
        return f"the pods are those of revision {revision}, as before: there is nothing to go back to"
    failed = next((pod for pod in rollout.pods_of(kube, deployment)), None)
    with steps.step(f"roll back to revision {revision}") as log:
        rollout.roll_back(kube, name, log, to=revision)
    if failed:  # so that the history holds only what has served
        kube.run("delete", "replicaset", failed["metadata"]["ownerReferences"][0]["name"], "--ignore-not-found")
    return f"rolled back: revision {revision} serves again"


def prune(kube: Kube, objects: Sequence[Object], name: str) -> list[str]:
    """Remove settings and secrets of earlier deploys that neither this one nor a revision to go back to refers to."""
    used = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for replica_set in kube.find("replicaset"):
        for container in replica_set["spec"]["template"]["spec"]["containers"]:
            for source in container.get("envFrom", []):
                used |= {("ConfigMap", source[key]["name"]) for key in ("configMapRef",) if key in source}
                used |= {("Secret", source[key]["name"]) for key in ("secretRef",) if key in source}
        for volume in replica_set["spec"]["template"]["spec"].get("volumes", []):
            if "configMap" in volume:
                used.add(("ConfigMap", volume["configMap"]["name"]))
    removed = []
    for kind in ("ConfigMap", "Secret"):
        for item in kube.find(kind.lower(), f"app.kubernetes.io/part-of={name}"):
            if (kind, item["metadata"]["name"]) not in used:
                kube.run("delete", kind.lower(), item["metadata"]["name"])
                removed.append(f"{kind}/{item['metadata']['name']}")
    return removed


def show(steps: Steps, changes: Sequence[Change]) -> None:
    """Print what changed, with its diff, and count what did not."""
    for change in changes:
        if change.verb != "unchanged":
            steps.log(f"    {change.verb} {change.name}")
            for line in change.diff.splitlines():
                steps.log(f"      {line}")
