import json
import logging

import pytest

from launch import logs
from protocol.errors import HeadstreamError

JSON = {logs.FORMAT: "json"}


@pytest.fixture(autouse=True)
def own_root():
    """The root logger as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_lines_say_what_and_of_whom(capsys):
    logs.configure(JSON)
    log = logging.getLogger("capture_nodes.link")
    log.warning("camera %s: %d pictures dropped", "cam03", 7)
    log.info("node %s: the server takes %s", "pc1", "cam00")
    log.info("nothing in particular:\ntwo lines, \u201equoted\u201c")
    log.debug("not said at INFO")
    camera, node, other = lines(capsys)
    assert (camera["level"], camera["logger"]) == ("WARNING", "capture_nodes.link")
    assert camera["message"] == "camera cam03: 7 pictures dropped" and camera["camera"] == "cam03"
    assert "node" not in camera and node["node"] == "pc1" and "camera" not in node
    assert set(other) == {"time", "level", "logger", "message"}
    assert other["message"].endswith("two lines, \u201equoted\u201c")
    assert camera["time"].endswith("Z") and len(camera["time"]) == len("2026-03-01T10:15:00.123Z")


def test_what_a_process_is_about_stands_on_every_line(capsys):
    logs.configure(JSON)
    logs.bind(node="pc7")
    logging.getLogger("x").info("camera cam01: opened")
    (entry,) = lines(capsys)
    assert (entry["node"], entry["camera"]) == ("pc7", "cam01")


def test_a_bugs_traceback_stays_in_its_line(capsys):
    logs.configure(JSON)
    try:
        raise ValueError("a bug")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (entry,) = lines(capsys)
    assert "ValueError: a bug" in entry["exception"] and "\n" in entry["exception"]


def test_text_is_what_it_was(capsys):
    logs.configure({})
    logs.bind(node="pc7")
    logging.getLogger("x").warning("camera cam01: opened")
    line = capsys.readouterr().err
    assert line.endswith(" W x: camera cam01: opened\n") and line[2] == ":"


@pytest.mark.parametrize(
    ("environment", "says"),
    [({logs.FORMAT: "xml"}, "HEADSTREAM_LOG_FORMAT: 'xml'; must be 'text' or 'json'"), ({logs.LEVEL: "LOUD"}, "LOUD")],
)
def test_a_format_or_level_that_there_is_not(environment, says):
    with pytest.raises(HeadstreamError, match=says):
        logs.configure(environment)


def test_a_parent_prints_its_childrens_lines_in_the_chosen_format():
    assert logs.relayed("pc1", "hello", {}) == "[pc1] hello"
    inner = json.dumps({"level": "ERROR", "message": "m"})
    assert json.loads(logs.relayed("pc1", inner, JSON)) == {"level": "ERROR", "message": "m", "process": "pc1"}
    for plain in ("10:00 | 8 cameras", "3", "[1]", "{"):
        entry = json.loads(logs.relayed("server", plain, JSON))
        assert (entry["message"], entry["process"], entry["level"]) == (plain, "server", "INFO")
