"""The page over a real connection: what a browser would be sent, and what a stream costs without one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from fcn_edge.errors import MissingError, SinkError, UsageError
from fcn_edge.runtime import open_sink, open_source, run, sink_page, sink_page_server
from fcn_edge.runtime.engine_echo import ECHO_CONTRACT, EchoEngine
from fcn_edge.runtime.frame import Frame, Result
from fcn_edge.runtime.measure import Link, Meter
from fcn_edge.runtime.sink_page import PageSink, page_url
from fcn_edge.runtime.sink_page_guard import Guard


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.fixture
def page(address):
    sink = PageSink(address, ECHO_CONTRACT)
    yield sink
    sink.close()


def get(address, path=""):
    with urllib.request.urlopen(f"http://{address}/{path}", timeout=10) as answer:
        return answer.read(), answer.headers


def result(level=200, labels=None):
    labels = np.zeros((48, 64), np.uint8) if labels is None else labels
    picture = np.full((48, 64, 3), level, np.uint8)
    return Result(Frame(picture, 0, time.monotonic_ns(), "0"), labels, picture, 0)


@contextlib.contextmanager
def looking_on(page, address):
    """A viewer that only connects; ``read`` gives what it has been sent."""
    with urllib.request.urlopen(f"http://{address}/stream.mjpg", timeout=10) as answer:
        wait_for(lambda: page._viewers == 1)
        yield answer
    wait_for(lambda: page._viewers == 0)


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_page_is_whole_and_asks_for_nothing_elsewhere(page, address):
    body, headers = get(address)
    text = body.decode()
    assert headers["Content-Type"].startswith("text/html")
    assert "picture.jpg" in text
    assert "status.json" in text
    assert not re.search(r"https?://", text), "a headless box may have no internet"


def test_numbers_before_and_after_the_first_status(page, address):
    before = json.loads(get(address, "status.json")[0])
    assert (before["model"], before["status"]) == (ECHO_CONTRACT.model, None)
    assert [one["name"] for one in before["classes"]] == list(ECHO_CONTRACT.class_names)
    assert before["classes"][0]["share"] is None
    page.tell(Meter("rtsp://***@cam/1", None).status(Link("reconnecting", 2, 1)))
    after = json.loads(get(address, "status.json")[0])["status"]
    assert after["source"] == "rtsp://***@cam/1"
    assert after["link"] == {"state": "reconnecting", "reconnects": 2, "stalls": 1}
    assert after["latency_p95_ms"] is None


def test_a_source_whose_name_is_no_utf8(page, address):
    page.tell(Meter(os.fsdecode(b"im\xff"), None).status(Link("running", 0, 0)))
    assert json.loads(get(address, "status.json")[0])["status"]["source"] == "im?"


def test_nothing_is_drawn_while_nobody_looks_on(page, address):
    assert not page.needs_picture
    page.write(result())
    assert page._picture == (0, b"")
    with looking_on(page, address):
        assert page.needs_picture
        page.write(result())
        assert not page.needs_picture, "the next one is due in 40 ms"
        wait_for(lambda: page.needs_picture)
    assert not page.needs_picture


def test_pictures_arrive_as_they_were_drawn(page, address):
    with looking_on(page, address) as answer:
        page.write(result(level=200))
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
        assert answer.readline() == b"--picture\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(answer.readline().split(b":")[1])
        answer.readline()
        image = cv2.imdecode(np.frombuffer(answer.read(length), np.uint8), cv2.IMREAD_COLOR)
        assert answer.read(13) == b"\r\n--picture\r\n"[:13]
    assert image.shape == (48, 64, 3)
    assert abs(int(image[20, 20, 1]) - 200) <= 2


def level_of(jpeg):
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return round(float(image[20, 20, 1]), -1)


@contextlib.contextmanager
def asking(address, path):
    """A question in another thread; gives what will hold (body, headers, status) once it is answered."""
    answers = []

    def ask():
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=20) as answer:
            answers.append((answer.read(), answer.headers, answer.status))

    thread = threading.Thread(target=ask)
    thread.start()
    yield answers
    thread.join(20)
    assert answers


def test_a_page_asks_for_one_picture_after_the_other(page, address):
    with asking(address, "picture.jpg?after=") as answers:
        wait_for(lambda: page.needs_picture)
        assert json.loads(get(address, "status.json")[0])["viewers"] == 1
        page.write(result(level=100))
    jpeg, headers, _ = answers[0]
    assert (level_of(jpeg), headers["Content-Type"], headers["Picture-Number"]) == (100, "image/jpeg", "1")
    wait_for(lambda: page.needs_picture)  # it will ask for the next: that one can be drawn already
    with asking(address, "picture.jpg?after=1") as answers:
        time.sleep(0.1)
        assert not answers, "it has that one"
        page.write(result(level=50))
    assert level_of(answers[0][0]) == 50
    started = time.monotonic()
    assert level_of(get(address, "picture.jpg?after=1")[0]) == 50, "drawn while it was away"
    assert level_of(get(address, "picture.jpg")[0]) == 50, "whatever is the newest"
    assert time.monotonic() - started < 5


def test_a_page_that_asks_for_no_more_pictures_costs_none(page, address, monkeypatch):
    with asking(address, "picture.jpg"):
        wait_for(lambda: page.needs_picture)
        page.write(result(level=100))
    page._looked_s -= 1
    assert not page.needs_picture
    assert json.loads(get(address, "status.json")[0])["viewers"] == 0
    page._drawn_s -= 60
    with asking(address, "picture.jpg") as answers:  # who comes then sees nothing of an earlier time
        time.sleep(0.1)
        assert not answers
        page.write(result(level=50))
    assert level_of(answers[0][0]) == 50
    monkeypatch.setattr(sink_page, "AGAIN_AFTER_S", 0.1)  # as of a camera that is away
    with asking(address, "picture.jpg?after=2") as answers:
        pass
    assert answers[0][::2] == (b"", 204)


def test_a_question_for_the_headers_of_a_picture_waits_for_none(page, address):
    asked = urllib.request.Request(f"http://{address}/picture.jpg", method="HEAD")
    started = time.monotonic()
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert answer.status == 204
    assert time.monotonic() - started < 5
    assert not page.needs_picture


def test_a_page_that_asks_each_second_learns_of_the_end(address):
    page = PageSink(address, ECHO_CONTRACT)
    assert json.loads(get(address, "status.json")[0])["ended"] is False
    closing = threading.Thread(target=page.close)
    closing.start()
    wait_for(lambda: page._is_closed)
    assert json.loads(get(address, "status.json")[0])["ended"] is True
    closing.join(10)
    with pytest.raises(OSError, match="refused"):
        get(address, "status.json")


def test_the_last_numbers_are_those_of_the_whole_stream(address):
    told = []

    class Page(PageSink):
        def tell(self, status):
            told.append(status.frames_out)

    with open_source("synthetic://street?size=96x128&frames=7") as source:
        run(source, EchoEngine(), Page(address, ECHO_CONTRACT))
    assert told == [0, 7]


def test_shares_of_the_classes(page, address):
    labels = np.zeros((48, 64), np.uint8)
    labels[:12] = 2
    with looking_on(page, address):
        page.write(result(labels=labels))
        shares = [one["share"] for one in json.loads(get(address, "status.json")[0])["classes"]]
        page.write(result(labels=np.zeros((48, 64), np.uint8)))  # at once: they are counted once a second
        again = [one["share"] for one in json.loads(get(address, "status.json")[0])["classes"]]
    assert shares == again == [0.75, 0.0, 0.25, 0.0]


def shares_of(address):
    return [one["share"] for one in json.loads(get(address, "status.json")[0])["classes"]]


def test_shares_of_the_classes_need_no_viewer_and_no_picture(page, address):
    """A program that asks for the numbers alone, however rarely, such as a home's or a plant's."""
    page.write(dataclasses.replace(result(), picture_bgr=None))
    assert shares_of(address) == [1.0, 0.0, 0.0, 0.0]
    page.write(result(labels=np.ones((48, 64), np.uint8)))
    assert shares_of(address) == [1.0, 0.0, 0.0, 0.0], "the next are due in a second"
    page._shared_s = 0.0
    page.write(result(labels=np.ones((48, 64), np.uint8)))
    assert shares_of(address) == [0.0, 1.0, 0.0, 0.0]
    assert (page.needs_picture, page._picture) == (False, (0, b""))


def test_shares_are_not_shown_while_the_camera_is_away(page, address):
    meter = Meter("cam", None)
    page.write(result())
    page.tell(meter.status(Link("reconnecting", 0, 1)))
    assert shares_of(address) == [None] * 4
    page.tell(meter.status(Link("running", 1, 1)))
    assert shares_of(address) == [1.0, 0.0, 0.0, 0.0]


def test_one_question_tells_that_a_stream_hangs(page, address):
    def told_s_ago():
        return json.loads(get(address, "status.json")[0])["told_s_ago"]

    assert told_s_ago() is None
    page.tell(Meter("cam", None).status(Link()))
    assert 0 <= told_s_ago() < 5
    page._told_s -= 60
    assert 60 <= told_s_ago() < 65


@pytest.mark.parametrize(
    ("told_s_ago", "shown"),
    [(2.04, ["running", "running"]), (None, ["running", "running"]), (12.6, ["no news for 13 s", "failed"])],
)
def test_the_page_says_that_a_stream_hangs(told_s_ago, shown):
    if shutil.which("node") is None:
        pytest.skip("needs node")
    page = sink_page._PAGE.read_text(encoding="utf-8")
    (function,) = re.findall(r"const stateOf = .*?;\n", page, re.DOTALL)
    news = json.dumps({"told_s_ago": told_s_ago, "status": {"link": {"state": "running"}}})
    script = f"{function} console.log(JSON.stringify(stateOf({news})))"
    answer = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == shown


def test_the_numbers_tell_which_model_runs(page, address):
    """Two files of one network have the same contract."""
    page.tell(Meter("cam", None, os.fsdecode(b"stra\xff-7.onnx")).status(Link()))
    assert json.loads(get(address, "status.json")[0])["status"]["engine"] == "stra?-7.onnx"


def test_who_comes_later_sees_no_picture_of_an_earlier_time(page, address):
    with looking_on(page, address):
        page.write(result(level=50))
    with looking_on(page, address) as answer:
        page._drawn_s = 0.0
        page.write(result(level=200))
        for _ in range(2):
            answer.readline()
        length = int(answer.readline().split(b":")[1])
        answer.readline()
        image = cv2.imdecode(np.frombuffer(answer.read(length), np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(image[20, 20, 1]) - 200) <= 2


def test_a_question_for_the_headers_is_no_viewer(page, address):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as asking:  # and stays connected
        asking.sendall(f"HEAD /stream.mjpg HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b"multipart/x-mixed-replace" in asking.recv(4096)
        time.sleep(0.2)
        assert page._viewers == 0


@pytest.mark.parametrize(("seconds", "shown"), [(59.9, "0:00:59"), (86_399, "23:59:59"), (90_061, "25:01:01")])
def test_the_page_tells_days_as_hours(seconds, shown):
    if shutil.which("node") is None:
        pytest.skip("needs node")
    page = sink_page._PAGE.read_text(encoding="utf-8")
    (expression,) = re.findall(r'"running for": (.*),\n', page)
    script = f"const s = {{elapsed_s: {seconds}}}; console.log({expression})"
    answer = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == shown


def test_a_slow_viewer_holds_up_nobody(page, address):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (1080, 1920, 3), np.uint8)
    big = Result(Frame(noise, 0, time.monotonic_ns(), "0"), np.zeros((1080, 1920), np.uint8), noise, 0)
    with looking_on(page, address):  # reads nothing, so that its connection is full after a few megabytes
        for _ in range(15):
            page._drawn_s = 0.0
            page.write(big)
        assert page._picture[0] == 15
        assert json.loads(get(address, "status.json")[0])["viewers"] == 1


def test_close_ends_it_for_the_viewers_and_frees_the_port(address):
    page = PageSink(address, ECHO_CONTRACT)
    with looking_on(page, address) as answer:
        started = time.monotonic()
        page.close()
        answer.read()
        assert time.monotonic() - started < 5
    page.close()
    early = PageSink(address, ECHO_CONTRACT)
    early.close()  # perhaps before its server has begun, which closes the listener otherwise
    assert early._listener.fileno() == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "fcn-edge-page"]


def test_one_stream_is_the_camera_of_another(address, tmp_path):
    """What is served is what network cameras send, so a second process can read it."""
    done = threading.Event()

    class Until(EchoEngine):
        def infer(self, frame_bgr):
            sink.wants_stop = done.is_set()
            return super().infer(frame_bgr)

    ended = []
    with open_source("synthetic://street?size=96x128&fps=25&live=1") as source:
        sink = open_sink(f"serve://{address}", contract=ECHO_CONTRACT)
        thread = threading.Thread(target=lambda: ended.append(run(source, Until(), sink).ended))
        thread.start()
        with open_source(f"http://{address}/stream.mjpg", max_reconnects=0) as second:
            frames = [second.read() for _ in range(5)]
        assert second.is_live
        done.set()
        thread.join(20)
    assert ended == ["signal"]
    assert all(frame.image_bgr.shape == (96, 128, 3) for frame in frames)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("8080", "http://127.0.0.1:8080/"),
        (":8080", "http://127.0.0.1:8080/"),
        ("0.0.0.0:80", "http://0.0.0.0:80/"),
        ("jetson.local:8080", "http://jetson.local:8080/"),
        ("[::1]:8080", "http://[::1]:8080/"),
    ],
)
def test_addresses(given, url):
    assert page_url(given) == url


@pytest.mark.parametrize(
    "given", ["", "host", "host:", "host:0", "host:65536", "a b:80", "::1:80", "http://x:80", "x:80/"]
)
def test_bad_addresses(given):
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        page_url(given)


def test_a_port_that_is_taken(page, address):
    with pytest.raises(UsageError, match=f"cannot serve on {address}"):
        PageSink(address, ECHO_CONTRACT)


def test_a_host_that_is_another_machine():
    with pytest.raises(UsageError, match="an address of this machine"):
        PageSink("203.0.113.7:8080", ECHO_CONTRACT)


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_a_web_server(monkeypatch, address, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package or name.endswith(".sink_page_server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=r"fcn-edge\[serve\]"):
        PageSink(address, ECHO_CONTRACT)
    socket.create_server(("127.0.0.1", int(address.split(":")[1]))).close()


def test_a_page_that_is_closed_takes_nothing_more(page):
    page.close()
    with pytest.raises(SinkError, match="the page is closed"):
        page.write(result())


def connected(address, sent=b""):
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(sent)
    return connection


def is_closed(connection, within_s):
    """Whether the other side ends the connection, whatever it has sent before."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost:",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc",
        b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost:",
    ],
)
def test_a_connection_without_a_whole_request_is_closed(monkeypatch, page, address, sent):
    monkeypatch.setattr(sink_page_server, "REQUEST_TIMEOUT_S", 0.5)
    with connected(address, sent) as connection:
        assert is_closed(connection, within_s=3)


def test_a_request_that_drips_is_closed(monkeypatch, page, address):
    monkeypatch.setattr(sink_page_server, "REQUEST_TIMEOUT_S", 0.5)

    def drip(connection):
        for _ in range(40):
            connection.sendall(b"x")
            time.sleep(0.1)

    with connected(address, b"GET / HTTP/1.1\r\nX: ") as connection, pytest.raises(ConnectionError):
        drip(connection)


def test_an_answer_under_way_has_no_time_limit(monkeypatch, page, address):
    monkeypatch.setattr(sink_page_server, "REQUEST_TIMEOUT_S", 0.2)
    with looking_on(page, address) as answer:
        time.sleep(0.8)
        page.write(result())
        assert answer.readline() == b"--picture\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"


def test_connections_above_the_limit_are_closed_and_the_others_stay(monkeypatch, page, address):
    monkeypatch.setattr(sink_page_server, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as held:
        ask = b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
        viewers = [held.enter_context(connected(address, ask)) for _ in range(3)]
        wait_for(lambda: page._viewers == 3)
        for _ in range(20):
            further = held.enter_context(connected(address))
            assert is_closed(further, within_s=3)
        page.write(result())
        viewers[0].settimeout(5)
        assert viewers[0].recv(4096)
        assert page._viewers == 3
    wait_for(lambda: page._viewers == 0)
    assert get(address)[0]


def test_running_out_of_files_is_told_once(page, caplog):
    loop, told = asyncio.new_event_loop(), []
    loop.default_exception_handler = told.append
    full = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Too many files")}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            page._server._on_loop_error(loop, full)
        page._server._on_loop_error(loop, {"message": "another"})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the page can take no further viewer (Too many files); it tries again each second"
    ]
    assert told == [{"message": "another"}]


def asked(address, path="/", **headers):
    """(status, headers, body) of an answer, whatever it is."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


OWN = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.7:8080", "[::1]:8080", "[fd00::7]", "localhost:8080", "LOCALHOST", "localhost."),
        *(OWN, f"{OWN}:8080", f"{OWN.partition('.')[0]}.local:8080"),
    ],
)
def test_hosts_that_are_answered(page, address, host):
    assert asked(address, "/status.json", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", f"{OWN}.evil.example", "127.0.0.1.evil.example", "[::1", "a b", ""]
)
@pytest.mark.parametrize("path", ["/", "/status.json", "/stream.mjpg"])
def test_a_name_that_is_made_to_lead_here_is_refused(page, address, host, path):
    status, _, body = asked(address, path, Host=host)
    assert status == 400
    assert b"let the proxy in front pass the upstream's Host" in body
    assert b"evil" not in body


def test_the_name_that_is_served_on_is_answered():
    guard = Guard(None, "Cameras.example")
    assert guard._is_own("cameras.example:8080")
    assert guard._is_own(None), "HTTP/1.0"
    assert not guard._is_own("other.example")


def test_other_sites_link_to_the_page_and_show_its_pictures_but_read_nothing(page, address):
    embedded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}
    framed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    opened = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    own = {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}
    fetched = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}
    assert asked(address, "/stream.mjpg", **fetched)[0] == 403
    assert asked(address, "/stream.mjpg", **framed)[0] == 403
    assert asked(address, "/status.json", **embedded)[0] == 403
    assert asked(address, "/", **framed)[0] == 403
    with urllib.request.urlopen(
        urllib.request.Request(
            f"http://{address}/stream.mjpg",
            headers={name.replace("_", "-"): value for name, value in embedded.items()},
        ),
        timeout=10,
    ) as answer:
        assert answer.status == 200
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert asked(address, "/", **opened)[0] == 200
    assert asked(address, "/status.json", **opened)[0] == 403
    assert asked(address, "/status.json", **own)[0] == 200


@pytest.mark.parametrize(("path", "code"), [("/", 200), ("/status.json", 200), ("/nothing", 404)])
def test_headers_that_keep_other_sites_out(page, address, path, code):
    status, headers, _ = asked(address, path)
    assert status == code
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_no_redirect_tells_a_host(page, address):
    assert asked(address, "/status.json/")[0] == 404


def test_the_last_picture_is_sent_again_while_none_comes(page, address, monkeypatch):
    """A proxy cuts a connection on which nothing comes for a minute, and a browser does not tell the page."""
    monkeypatch.setattr(sink_page, "AGAIN_AFTER_S", 0.1)
    with looking_on(page, address) as answer:
        page.write(result(level=200))
        pictures = []
        for _ in range(3):
            for _ in range(2):
                answer.readline()
            length = int(answer.readline().split(b":")[1])
            answer.readline()
            pictures.append(answer.read(length))
            answer.readline()
    assert pictures[0] == pictures[1] == pictures[2]


def test_all_addresses_are_those_of_ipv4_too():
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with contextlib.closing(PageSink(f"[::]:{port}", ECHO_CONTRACT)):
        assert get(f"127.0.0.1:{port}")[0]
