"""S11, S12: paths and URLs that a model gives to a tool stay where the tool declared them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

import orjson
import pytest

from apwa_dask.agents.capabilities import described
from apwa_dask.agents.places import PathIn, UrlIn, place_in, public_addresses

OUTSIDE = [
    "..", "../x", "a/../../x", "/etc/passwd", "//host/share", "\\\\host\\share", "a\\..\\x", "C:\\x", "c:/x", "~",
    "~root/x",
    "link/x", "link", "%2e%2e/x", "..%2fx", "%252e%252e/x", "a\0b", "a\nb", "simplecache::file://x", "dir::x", "file:///etc/passwd",
    "FILE:///x", "local://x", "http://127.0.0.1/", "data:,x", "memory://x", "s3://b/k", "", "x" * 5_000, "\u202ex",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_s11_no_path_leads_out_of_its_folder(tmp_path: Any, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"^(a|the) path"):
        PathIn(tmp_path / "root")(path)


def test_s11_what_is_inside_is_allowed_and_real(tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "to_a").symlink_to(tmp_path / "a")
    assert PathIn(tmp_path)("a/b.txt") == str(tmp_path / "a" / "b.txt")
    assert PathIn(tmp_path)("to_a/b.txt") == str(tmp_path / "a" / "b.txt")


@pytest.mark.parametrize(
    "value", [path for path in OUTSIDE if ("/" in path or "::" in path) and path.isprintable()]
)
def test_s11_a_path_or_url_is_seen_in_any_argument(value: str) -> None:
    if value.startswith(("a/", "link", "%2e", "%252e", "..%")):
        return  # could be a word; a tool that takes paths declares them
    assert place_in(value)
    assert place_in({"in": [value]})
    assert not place_in(f"see {value} for more")


INSIDE = [
    "http://docs.example.org/", "https://127.0.0.1/", "https://localhost/", "https://2130706433/", "https://0x7f000001/",
    "https://0177.0.0.1/", "https://127.1/", "https://0/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://169.254.169.254/latest",
    "https://[fe80::1]/", "https://metadata/", "https://docs.example.org@127.0.0.1/", "https://127.0.0.1#docs.example.org",
    "https://docs.example.org.evil.test/", "https://evil.test/docs.example.org", "https://docs.example.org%2eevil.test/",
    "https://docs.example.org\\@evil.test/", "https://docs。example。org/", "https://①②⑦.⓪.⓪.①/", "file:///etc/passwd", "ftp://docs.example.org/",
    "gopher://docs.example.org/", "//docs.example.org/", "https:///docs.example.org", "https://docs.example.org\t/",
    "javascript:alert(1)", "",
]  # fmt: skip


@pytest.mark.parametrize("url", INSIDE)
def test_s12_no_url_but_one_on_an_allowed_host_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        UrlIn("docs.example.org")(url)
    with pytest.raises(ValueError, match=r"\w"):
        UrlIn()("https://docs.example.org/")


def test_s12_an_allowed_host_is_taken() -> None:
    assert UrlIn("docs.example.org")("https://DOCS.example.org:8443/a?b=c#d")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0",
     "fc00::1",
     "::ffff:10.0.0.1", "2002:0a00:0001::", "100.64.0.1", "224.0.0.1", "255.255.255.255"],
)  # fmt: skip
def test_s12_a_name_that_leads_inside_is_refused(address: str) -> None:
    def rebound(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    with pytest.raises(ValueError, match="not public"):
        public_addresses("https://docs.example.org/", resolve=rebound)


def test_s12_a_name_is_asked_once_and_its_addresses_are_what_is_connected_to() -> None:
    asked = []

    def first_public_then_private(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

    found = public_addresses("https://docs.example.org:444/", resolve=first_public_then_private)
    assert (found, asked) == (("93.184.216.34",), [("docs.example.org", 444)])
    assert all(ipaddress.ip_address(address).is_global for address in found)


def test_s12_a_tools_url_is_judged_before_it_runs() -> None:
    ran = []

    def page(url: Annotated[str, UrlIn("docs.example.org")]) -> str:
        """Read a page."""
        ran.append(url)
        return "page"

    tool = described(page, power="network")
    for url in INSIDE:
        assert tool.run(orjson.dumps({"url": url}).decode()).error
    assert ran == []
    given = tool.arguments.model_validate({"url": "https://docs.example.org/x"})
    assert tool.undeclared_place(given) is None
    assert not tool.run('{"url":"https://docs.example.org/x"}').error
