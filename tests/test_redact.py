"""What is shown of addresses, however mistyped, and of names that would steer a terminal."""

from __future__ import annotations

import pytest

from fcn_edge.redact import redact, redact_sentence, shown

ADDRESSES = [
    "rtsp://user:S3CRET@h/x",
    "rtsp://user:S3C@RE/T@h",
    "rtsp://user:S3CRET%40h/x",
    "rtsp://u:it's S3CRET@h",
    " rtsp://u:S3 CRET@h/x",
    "rtsp:/user:S3CRET@h/x",
    "rtsp:user:S3CRET@h",
    "rtsp//u:S3CRET@h",
    "user:S3CRET@192.168.1.2:554/s",
    "csi://u:S3CRET@h",
    "srt://h:9000?passphrase=S3CRET&streamid=x",
    "http://h/x?p%61ssword=S3CRET",
    "http://h/x?u=a%26pwd%3DS3CRET",
    "http://h/x?channel=1%26pwd=S3CRET",
    "http://h/x?pwd=a;b=S3CRET",
    "http://h/x?S3CRET",
    "http://h/x#access_token=S3CRET",
    "rtsp://h/user=admin_password=S3CRET_channel=1.sdp",
    "rtmp://h/live/S3CRET",
    "rtmps://h/live/S3CRET/?x=1",
]


@pytest.mark.parametrize("text", [*ADDRESSES, "http://h?auth=S3\nCRET", "rtsp://u:S3\nCRET@h/x"])
def test_no_secret_of_an_address_is_shown(text) -> None:
    assert "S3" not in redact(text)
    assert "CRET" not in redact(text)


@pytest.mark.parametrize("text", ADDRESSES)
def test_no_secret_of_an_address_in_a_message_is_shown(text) -> None:
    if "it's" not in text:  # where a quote and a space stand in a password a sentence does not show where it ends
        assert "S3" not in redact_sentence(f"fcn-edge: '{text}' does not exist; expected a file")
    if " " not in text:
        assert "S3" not in redact_sentence(f"fcn-edge: {text} does not exist; expected a file")


@pytest.mark.parametrize(
    "text",
    [
        "at 12:30 mail me@example.org",
        "C:\\runs\\a@2x.png and C:/runs/a@2.png cannot be read",
        "http://127.0.0.1:8080/ shows the stream",
        "expected synthetic://street[?seed=0&size=360x480&fps=30&frames=300&live=1]",
        "rtsp://cam:554/live?channel=1&subtype=0; check it",
        "git@github.com:x/y, mailto:me@example.org, runs/best.pt@432x576",
        "a camera (0, /dev/video0, csi://0, rtsp://...), synthetic://street",
        "rtsp://***@cam/1?key=*** is lost",
    ],
)
def test_other_messages_stay_as_they_are(text) -> None:
    assert redact_sentence(text) == shown(text) == text


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert shown("no \x1b[2Jfile\r\x07 \udcff\u202e\nnext line é") == (
        "no \\x1b[2Jfile\\r\\x07 \\udcff\\u202e\nnext line é"
    )
