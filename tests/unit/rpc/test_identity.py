import contextlib

import pytest

from snapd import errors
from snapd.rpc import identity, methods


def test_calls_of_each_kind_are_counted_for_themselves() -> None:
    caller = identity.Identity("agent", identity.Limits(unary_calls=1, streams=2, waits=1))
    with contextlib.ExitStack() as stack:
        stack.enter_context(caller.calling(methods.Kind.STREAM))
        stack.enter_context(caller.calling(methods.Kind.STREAM))
        with pytest.raises(errors.TooManyCalls) as refused, caller.calling(methods.Kind.STREAM):
            pass
        assert (refused.value.kind, refused.value.limit) == ("stream", 2)
        stack.enter_context(caller.calling(methods.Kind.UNARY))
        stack.enter_context(caller.calling(methods.Kind.WAIT))


def test_a_call_that_ended_makes_room_even_if_it_failed() -> None:
    caller = identity.Identity("agent", identity.Limits(unary_calls=1))
    for _ in range(3):
        with contextlib.suppress(ValueError), caller.calling(methods.Kind.UNARY):
            raise ValueError
    with caller.calling(methods.Kind.UNARY), pytest.raises(errors.TooManyCalls), caller.calling(methods.Kind.UNARY):
        pass
