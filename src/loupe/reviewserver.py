"""Review server: the pages of a review, over HTTP on this machine alone.

Owns addresses, forms and what a browser may do with the pages. Decisions are forms, so all
works without JavaScript. It must not open a port, write files or choose what is shown.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.desks import Desk
from loupe.errors import LoupeError
from loupe.queues import ORDERS, Choice, choose_issues, count_progress, find_last, find_next
from loupe.reviewpages import describe_issue
from loupe.reviews import settle_reviews
from loupe.rowimages import SIDES

_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with it a browser calls the origin of its own forms "null".
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_ASSETS = {
    "review.css": "text/css",
    "review.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_LINGER_S = 0.5
_MOST_BYTES = 1 << 16  # of a form
_FOREIGN = "This address is not the one that 'loupe review' printed. Open that one."


def make_app(desk: Desk, *, token: str, port: int, stop: Callable[[], None]) -> ASGIApp:
    """Make the application that shows issues and takes decisions.

    Args:
        desk: What is reviewed.
        token: Whoever does not know it gets nothing.
        port: Where it is served; requests that name another host or port are refused, since
            a page elsewhere may point its own name to this machine.
        stop: Called when the reviewer has finished.
    """
    site = _Site(desk, stop)
    routes = [
        Route("/", site.go_on),
        Route("/end", site.show_end),
        Route("/issue/{place:int}", site.show_issue),
        Route("/issue/{place:int}", site.decide, methods=["POST"]),
        Route("/undo", site.undo, methods=["POST"]),
        Route("/finish", site.finish, methods=["POST"]),
        Route("/image/{row:int}/{size}", site.send_image),
        Route("/{name}", _send_asset),
    ]
    faults = (HTTPException, LoupeError, OSError, Exception)
    handlers: dict[Any, Any] = dict.fromkeys(faults, site.show_error)
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, token=token, port=port)


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets through who knows the token, from this machine's own address.

    Attributes:
        app: What is guarded.
        token: The secret.
        port: Where it is served.
    """

    app: ASGIApp
    token: str
    port: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        answer = self._judge(request)
        await (self.app if answer is None else answer)(scope, receive, send_guarded)

    def _judge(self, request: Request) -> Response | None:
        """Return the answer to a request that goes no further."""
        hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        origin = request.headers.get("origin")
        own = origin is None or origin in {f"http://{host}" for host in hosts}
        if request.headers.get("host") not in hosts or not own:
            return PlainTextResponse(_FOREIGN, HTTPStatus.FORBIDDEN)
        # Browsers do not part cookies by port.
        name = f"loupe-{self.port}"
        if self._knows(request.query_params.get("token", "")):
            answer = RedirectResponse(request.url.path, HTTPStatus.SEE_OTHER)
            answer.set_cookie(name, self.token, httponly=True, samesite="strict")
            answer.headers["cache-control"] = "no-store"
            return answer
        if self._knows(request.cookies.get(name, "")):
            return None
        return PlainTextResponse(_FOREIGN, HTTPStatus.FORBIDDEN)

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())


class _Site:
    """The answers to all addresses."""

    def __init__(self, desk: Desk, stop: Callable[[], None]) -> None:
        self._desk = desk
        self._stop = stop
        self._pages = Environment(
            loader=PackageLoader("loupe", "pages"), autoescape=True, undefined=StrictUndefined
        )

    def go_on(self, request: Request) -> Response:
        """Go to the next open issue, or to the end."""
        return self._redirect(_read_choice(request), None)

    def show_issue(self, request: Request) -> Response:
        """Show one issue."""
        place = self._find_place(request)
        choice = _read_choice(request)
        page = describe_issue(self._desk, place, choice)
        return self._render("issue.html", {"page": page, **self._frame(choice, place)})

    def show_end(self, request: Request) -> Response:
        """Show that nothing is left, and what was decided."""
        choice = _read_choice(request)
        frame = self._frame(choice, None)
        standing = settle_reviews(self._desk.reviews())
        keys = self._desk.places
        found = [review.decision for key, review in standing.items() if key in keys]
        names = ("keep", "relabel", "drop", "skip")
        counts = {name: sum(decision == name for decision in found) for name in names}
        return self._render("end.html", {"counts": counts, **frame})

    async def decide(self, request: Request) -> Response:
        """Write a decision, and only then go on."""
        form = await _read_form(request)
        place, choice = self._find_place(request), _read_choice(request)
        decision, label = form.get("decision", ""), form.get("label", "")
        await run_in_threadpool(self._desk.decide, place, decision, label)
        return await run_in_threadpool(self._redirect, choice, place)

    def undo(self, request: Request) -> Response:
        """Take back the latest decision, and show what it was about."""
        choice = _read_choice(request)
        place = self._desk.undo()
        if place is None:
            return self._redirect(choice, None)
        if place not in choose_issues(self._desk.sheet.issues, choice):
            choice = Choice(order=choice.order)
        return _see(f"/issue/{place}", choice)

    def finish(self, request: Request) -> Response:
        """Say good-bye, and stop the server once that is sent."""
        frame = self._frame(_read_choice(request), None)
        answer = self._render("closed.html", frame)
        answer.background = BackgroundTask(self._close)
        return answer

    def _close(self) -> None:
        # The page that says good-bye may still fetch its style.
        time.sleep(_LINGER_S)
        self._stop()

    def send_image(self, request: Request) -> Response:
        """Send the image of a row."""
        row, size = request.path_params["row"], request.path_params["size"]
        if row >= len(self._desk.table) or size not in SIDES:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such image.")
        mask = request.query_params.get("mask")
        try:
            picture = self._desk.images.draw(row, size, mask)
        except LoupeError as error:
            return PlainTextResponse(str(error), HTTPStatus.NOT_FOUND)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(picture.data, media_type=picture.media, headers=headers)

    def show_error(self, request: Request, error: Exception) -> Response:
        """Say in words what went wrong; nothing was decided then."""
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, HTTPException):
            status, text = HTTPStatus(error.status_code), error.detail
        elif isinstance(error, LoupeError):
            status, text = HTTPStatus.BAD_REQUEST, str(error)
        answer = self._render("error.html", {"text": text, "back": request.url.path})
        answer.status_code = status
        return answer

    def _find_place(self, request: Request) -> int:
        place: int = request.path_params["place"]
        if place >= len(self._desk.sheet.issues):
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such issue.")
        return place

    def _redirect(self, choice: Choice, after: int | None) -> Response:
        issues, reviews = self._desk.sheet.issues, self._desk.reviews()
        place = find_next(issues, reviews, choice, after=after)
        return _see("/end" if place is None else f"/issue/{place}", choice)

    def _frame(self, choice: Choice, place: int | None) -> dict[str, Any]:
        """Return what stands around every page: progress, filters, the last decision."""
        issues, reviews = self._desk.sheet.issues, self._desk.reviews()
        standing = settle_reviews(reviews)
        return {
            "choice": choice,
            "query": _spell_choice(choice),
            "place": place,
            "all": count_progress(issues, standing, range(len(issues))),
            "chosen": count_progress(issues, standing, choose_issues(issues, choice)),
            "filtered": bool(choice.class_name or choice.rule),
            "classes": self._desk.count_classes(),
            "rules": self._desk.count_rules(),
            "last": find_last(reviews, self._desk.places),
            "reviewer": self._desk.reviewer,
            "path": str(self._desk.path),
        }

    def _render(self, name: str, values: Mapping[str, Any]) -> HTMLResponse:
        text = self._pages.get_template(name).render(values)
        return HTMLResponse(text, headers={"cache-control": "no-store"})


def _send_asset(request: Request) -> Response:
    """Send the style or the script of the pages; nothing else has a name here."""
    name = request.path_params["name"]
    if name not in _ASSETS:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such page.")
    data = (files("loupe") / "pages" / name).read_bytes()
    headers = {"cache-control": "private, max-age=600"}
    return Response(data, media_type=_ASSETS[name], headers=headers)


async def _read_form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too large.")
    return dict(parse_qsl(body.decode("utf-8", errors="replace"), keep_blank_values=True))


def _read_choice(request: Request) -> Choice:
    asked = request.query_params
    order = next((name for name in ORDERS if name == asked.get("order")), ORDERS[0])
    return Choice(class_name=asked.get("class", ""), rule=asked.get("rule", ""), order=order)


def _spell_choice(choice: Choice) -> str:
    """Return the choice as the end of an address, "" for none."""
    plain = Choice()
    parts = {"class": choice.class_name, "rule": choice.rule}
    parts |= {"order": choice.order} if choice.order != plain.order else {}
    text = urlencode({name: value for name, value in parts.items() if value}, quote_via=quote)
    return f"?{text}" if text else ""


def _see(path: str, choice: Choice) -> Response:
    return RedirectResponse(path + _spell_choice(choice), HTTPStatus.SEE_OTHER)
