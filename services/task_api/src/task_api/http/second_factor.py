"""/auth/totp, where accounts are on: the second factor of an account, codes by time (TOTP, RFC 6238)."""

from flask import Blueprint, Response, g

from service_kit.http.messages import body, respond
from service_kit.http.openapi import Answers, Link, documented
from task_api.accounts.model import Confirmation, Enrolment, Proof, ProofAndCode, RecoveryCodes, SecondFactor
from task_api.http.auth import accounts, address
from task_api.http.context import account

blueprint = Blueprint("second_factor", __name__, url_prefix="/auth/totp")
REFUSALS = (400, 403, 409, 413, 415)
CODES = Answers(
    ok=RecoveryCodes,
    problems=REFUSALS,
    links=tuple(
        Link(name, body={"code": "$response.body#/recovery_codes/0"})
        for name in ("disable_totp", "renew_recovery_codes")
    ),
)


@blueprint.get("")
@documented(answers=Answers(ok=SecondFactor), tag="auth")
def get_totp() -> Response:
    """Return whether the second factor is on, and how many recovery codes are left."""
    return respond(accounts().second_factors.state(account()))


@blueprint.post("")
@documented(json=Proof, answers=Answers(ok=Enrolment, problems=REFUSALS), tag="auth")
def enrol_totp() -> Response:
    """Return a new secret for an authenticator. `POST /auth/totp/confirm` with its first code turns it on."""
    who = account()
    accounts().confirm(who, body(Proof).password, address())
    return respond(accounts().second_factors.enrol(who))


@blueprint.post("/confirm")
@documented(json=Confirmation, answers=CODES, tag="auth")
def confirm_totp() -> Response:
    """Turn the second factor on: from now on logging in needs a code. The recovery codes are returned this once."""
    who = account()
    return respond(accounts().second_factors.confirm(who, g.session_id, body(Confirmation).code))


@blueprint.post("/recovery-codes")
@documented(json=ProofAndCode, answers=CODES, tag="auth")
def renew_recovery_codes() -> Response:
    """Replace the recovery codes: those from before are not valid any more."""
    who, proof = account(), body(ProofAndCode)
    accounts().confirm(who, proof.password, address())
    return respond(accounts().second_factors.renew(who, proof.code))


@blueprint.post("/delete")
@documented(json=ProofAndCode, answers=Answers(no_content=True, problems=REFUSALS), tag="auth")
def disable_totp() -> Response:
    """Turn the second factor off: the password alone logs in again."""
    who, proof = account(), body(ProofAndCode)
    accounts().confirm(who, proof.password, address())
    accounts().second_factors.disable(who, proof.code)
    return Response(status=204)
