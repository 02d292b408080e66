"""Addresses of boards: what ends up on the command line of ssh and adb."""

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.remote.address import AdbAddress, SshAddress, read_address
from squeeze_export.remote.ssh import explained, ssh_command


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://pi@raspberrypi.local", SshAddress("raspberrypi.local", "pi")),
        ("ssh://board", SshAddress("board")),
        ("ssh://pi@10.0.0.7:2222/", SshAddress("10.0.0.7", "pi", 2222)),
        ("ssh://pi@[fe80::1]:22", SshAddress("fe80::1", "pi", 22)),
        ("ssh://[fe80::1%eth0]", SshAddress("fe80::1%eth0")),
        ("adb://R58M12ABCDE", AdbAddress("R58M12ABCDE")),
        ("adb://192.168.1.5:5555", AdbAddress("192.168.1.5:5555")),
    ],
)
def test_addresses(url, address):
    assert read_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "board",
        "ssh://",
        "ssh://-oProxyCommand=touch",
        "ssh://-l@host",
        "ssh://pi@-host",
        "ssh://pi@host:0",
        "ssh://pi@host:65536",
        "ssh://pi@host:ssh",
        "ssh://pi@host/path",
        "ssh://pi@ho st",
        "ssh://pi@host;reboot",
        "ssh://pi@host\n",
        "ssh://$(id)@host",
        "ssh://[not:an:address]",
        "ssh://[::1",
        "adb://",
        "adb://-s",
        "adb://a b",
        "http://host",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(BadInput, match=r"is not the address of a board|is not an IPv6 address|is outside 1 to 65535"):
        read_address(url)


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(BadInput, match="a password has no place") as caught:
        read_address("ssh://pi:secret@host")
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_nothing_loosens_the_check_of_host_keys():
    """The negative control of the tests against a real sshd: no option of ours touches what they rely on."""
    command = ssh_command(SshAddress("host", "pi", 22), config=None, remote="true")
    assert "BatchMode=yes" in command
    assert not [word for word in command if "StrictHostKey" in word or "KnownHosts" in word or "Password" in word]
    assert command[-3:] == ["--", "host", "true"]


@pytest.mark.parametrize(
    ("code", "printed", "exit_code", "message"),
    [
        (255, "ssh: connect to host b port 22: No route to host", 3, "cannot be reached"),
        (255, "ssh: Could not resolve hostname b: Name or service not known", 3, "cannot be reached"),
        (255, "client_loop: send disconnect: Broken pipe", 3, "the connection to the board `b` broke"),
        (255, "Timeout, server b not responding.", 3, "cannot be reached"),
        (255, "Unable to negotiate with b port 22: no matching host key type found", 3, "ssh failed for the board `b`: Unable"),
        (255, "", 3, "the connection to the board `b` broke"),
        (72, "", 3, "`python3` of the board `b` is older than 3.7"),
        (
            73,
            "mktemp: failed to create directory: No space left on device",
            3,
            "cannot make a temporary folder: mktemp: .* No space",
        ),
        (137, "", 4, "was ended by SIGKILL"),
        (139, "", 4, "was ended by SIGSEGV"),
        (-9, "", 3, "the connection to the board `b` broke: ssh was ended by SIGKILL"),
        (1, "Traceback\nImportError: libfoo", 4, "ended with exit code `1`: ImportError: libfoo"),
    ],
)
def test_why_ssh_ended(code, printed, exit_code, message):
    err = explained(SshAddress("b"), "python3", code, printed)
    assert err.exit_code == exit_code
    with pytest.raises(type(err), match=message):
        raise err
