"""What happens around every call: it is counted, checked, ended by a drain, logged, and its errors become statuses."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf import message

from snapd import clock, errors
from snapd.rpc import constraints, methods
from snapd.rpc import drain as drains
from snapd.rpc import errors as statuses
from snapd.rpc import identity as identities
from snapd.service import problems

TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")
# gRPC's classes are generic for type checkers only, so they stand in quotes where they take parameters.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Found: TypeAlias = "grpc.RpcMethodHandler[TRequest, TResponse] | None"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Found[TRequest, TResponse]]]"

_log = structlog.get_logger(__name__)
_NAMING_FIELDS = ("name", "parent", "source", "environment_id")


def bind_target(request: Any) -> None:
    """Have the lines that are logged for this call tell what its request names."""
    fields = request.DESCRIPTOR.fields_by_name
    name = next((getattr(request, field) for field in _NAMING_FIELDS if field in fields), "")
    resource = next((getattr(request, field) for field in ("environment", "volume", "snapshot") if field in fields), "")
    structlog.contextvars.bind_contextvars(target=name or getattr(resource, "name", resource))


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of one listener, whose callers all are one identity."""

    def __init__(self, identity: identities.Identity, drain: drains.Drain) -> None:
        self._identity = identity
        self._drain = drain
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: "Continuation[TRequest, TResponse]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Found[TRequest, TResponse]":
        path = handler_call_details.method
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[path] = self._wrap(methods.find(path), handler)
        return self._wrapped[path]

    def _wrap(self, method: methods.Method, handler: Handler) -> Handler:
        coders = (handler.request_deserializer, handler.response_serializer)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._streaming(method, handler.stream_stream), *coders)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method, handler.unary_stream), *coders)
        assert handler.unary_unary is not None, "no method of the API takes a stream and answers with one message"
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *coders)

    def _unary(self, method: methods.Method, behaviour: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def handle(request: Any, context: Any) -> Any:
            async with self._around(method, context):
                self._check(method, request)
                return await behaviour(request, context)

        return handle

    def _streaming(self, method: methods.Method, behaviour: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        async def handle(requests: Any, context: Any) -> None:
            async with self._around(method, context):
                self._check(method, requests)
                responses = behaviour(requests, context)
                if not inspect.isasyncgen(responses):
                    await responses
                    return
                # Written here rather than yielded to gRPC, so that a drain finds every wait of the call in this block.
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)

        return handle

    def _check(self, method: methods.Method, request: Any) -> None:
        if isinstance(request, message.Message) and method.name in constraints.TABLE:
            bind_target(request)
            constraints.check(method.name, request)

    @asynccontextmanager
    async def _around(self, method: methods.Method, context: Any) -> AsyncIterator[None]:
        began = clock.monotonic_s()
        told = None
        try:
            with self._identity.calling(method.kind):
                async with self._drain.call(method):
                    yield
        except errors.SnapdError as error:
            told = problems.describe(error)
        except asyncio.CancelledError:
            self._audit(method, began, "CANCELLED", "")
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:
            # The boundary of the process: whatever goes wrong inside, the caller gets a status and the log the rest.
            told, incident = statuses.internal()
            _log.exception("unexpected error", method=method.full_name, incident=incident)
        if told is None:
            self._audit(method, began, "OK", "")
            return
        status = statuses.status(told)
        code = statuses.code(status.code)
        self._audit(method, began, code.name, told.reason)
        await context.abort(code, status.message, ((statuses.DETAILS_KEY, status.SerializeToString()),))

    def _audit(self, method: methods.Method, began: float, code: str, reason: str) -> None:
        if method.changes:
            took_ms = round((clock.monotonic_s() - began) * 1000, 1)
            _log.info(
                "call", method=method.full_name, identity=self._identity.name, code=code, reason=reason, took_ms=took_ms
            )
