import threading

from snapd.pool import pins as pinning


def test_a_layer_that_is_read_is_had_by_nobody_alone() -> None:
    pins = pinning.Pins()
    with pins.reading(["a", "b"]):
        assert pins.is_pinned("a")
        with pins.alone(["b", "c"]) as alone:
            assert not alone
        assert not pins.is_pinned("c")
    with pins.alone(["a", "b"]) as alone:
        assert alone
        assert pins.is_pinned("b")
    assert not pins.is_pinned("b")


def test_pins_are_counted() -> None:
    pins = pinning.Pins()
    pins.acquire(["a"])
    pins.acquire(["a", "a"])
    pins.release(["a", "a"])
    assert pins.is_pinned("a")
    pins.release(["a"])
    assert not pins.is_pinned("a")


def test_a_reader_waits_until_a_layer_is_free() -> None:
    pins = pinning.Pins()
    asked, read = threading.Event(), threading.Event()

    def reader() -> None:
        asked.set()
        with pins.reading(["a"]):
            read.set()

    thread = threading.Thread(target=reader)
    with pins.alone(["a"]) as alone:
        assert alone
        thread.start()
        asked.wait()
        with pins.alone(["a"]) as twice:
            assert not twice
        assert not read.is_set()
    thread.join()
    assert read.is_set()


def test_the_last_reader_who_leaves_is_told_of() -> None:
    pins = pinning.Pins()
    told: list[bool] = []
    pins.on_release(lambda: told.append(pins.is_pinned("a")))
    with pins.reading(["a"]):
        with pins.reading(["a"]):
            pass
        assert told == []
    assert told == [False]


def test_a_block_that_fails_lets_go() -> None:
    pins = pinning.Pins()
    for hold in (pins.reading, pins.alone):
        try:
            with hold(["a"]):
                raise KeyError("whatever")
        except KeyError:
            assert not pins.is_pinned("a")


def test_the_end_of_having_layers_to_oneself_is_told() -> None:
    pins = pinning.Pins()
    told: list[bool] = []
    pins.on_release(lambda: told.append(pins.is_pinned("a")))
    with pins.alone(["a"]) as first:
        with pins.alone(["a"]) as second:
            pass
        assert (first, second, told) == (True, False, [])
    assert told == [False]
