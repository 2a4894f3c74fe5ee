"""The guard's table: what is refused by its text, and what by the addresses it resolves to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.media.settings import MediaSettings
from deployments.media.url_guard import check_addresses, is_public, next_target, parse_url
from deployments.runtime.errors import UrlRefused

SETTINGS = MediaSettings()

NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # CGNAT: is_private is False
    "100.100.100.200",  # a cloud's metadata server
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1: is_global is True
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001:0:53aa:64c::1",
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "4000::1",
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(UrlRefused):
        check_addresses([address])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert check_addresses([address]) == [ipaddress.ip_address(address)]


@pytest.mark.parametrize("answers", [["8.8.8.8", "127.0.0.1"], ["::1", "8.8.8.8"], [], ["8.8.8.8", "not an address"]])
def test_one_bad_answer_refuses_them_all(answers: list[str]) -> None:
    with pytest.raises(UrlRefused):
        check_addresses(answers)


@given(st.ip_addresses())
def test_the_guard_never_accepts_a_non_global_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_private


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:", "64:ff9b::", "::"]))
def test_a_wrapped_address_is_no_safer_than_what_it_wraps(address: ipaddress.IPv4Address, prefix: str) -> None:
    if not is_public(address):
        assert not is_public(ipaddress.ip_address(prefix + str(address)))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/a",
        "//example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http:///a",
        "http://",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\\.example.com/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nHost: evil",
        "http://example.com/\x00",
        "\thttp://example.com/",
        "http://example.com:22/",
        "http://example.com:8000/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:abc/",
        "http://[::1/",
        "http://[example.com]/",
        "http://[v1.fe80::1]/",
        "http://exam%70le.com/",
        "http://example..com/",
        "http://" + "a" * 64 + ".com/",
        "http://-/",
        "http://example.com/" + "a" * 9000,
        "http://example.com#@127.0.0.1/",
    ],
)
def test_text_that_two_parsers_could_read_differently_is_refused(url: str) -> None:
    try:
        target = parse_url(url, SETTINGS)
    except UrlRefused:
        return
    assert url.startswith("http://example.com#"), target
    assert target.host == "example.com"  # the fragment is not part of the host for anyone


def test_a_url_is_taken_apart_once() -> None:
    target = parse_url("HTTPS://Bücher.Example:443/ä?q=1&r=ü#frag", SETTINGS)
    assert target.scheme == "https"
    assert target.host == "xn--bcher-kva.example"
    assert target.port == 443
    assert target.authority == "xn--bcher-kva.example"
    assert target.path == "/%C3%A4?q=1&r=%C3%BC"
    assert parse_url("http://[2606:4700::1111]:80?x", SETTINGS).url == "http://[2606:4700::1111]/?x"


def test_hosts_may_be_listed() -> None:
    settings = MediaSettings(allowed_hosts=("media.example", ".cdn.example"))
    for url in ("http://media.example/", "http://MEDIA.example./", "http://a.b.cdn.example/"):
        parse_url(url, settings)
    for url in ("http://example/", "http://xmedia.example/", "http://a.media.example/", "http://evilcdn.example/"):
        with pytest.raises(UrlRefused, match="list of allowed hosts"):
            parse_url(url, settings)


def test_redirects_are_checked_like_first_urls() -> None:
    secure = parse_url("https://example.com/a/b", SETTINGS)
    assert next_target(secure, "../c?d", SETTINGS).url == "https://example.com/c?d"
    assert next_target(secure, "//other.example/x", SETTINGS).url == "https://other.example/x"
    with pytest.raises(UrlRefused, match="https to http"):
        next_target(secure, "http://example.com/", SETTINGS)
    bad = ("file:///etc/passwd", "https://example.com:22/", "https://a@b/", "/a b", "//[x", "//exa\u2100mple.com/")
    for location in bad:
        with pytest.raises(UrlRefused):
            next_target(secure, location, SETTINGS)


def test_a_private_network_must_be_allowed_by_name_and_never_opens_another() -> None:
    networks = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    assert [str(a) for a in check_addresses(["10.1.2.3", "fd00::1"], networks)] == ["10.1.2.3", "fd00::1"]
    for answers in (["10.2.0.1"], ["127.0.0.1"], ["10.1.2.3", "10.2.0.1"], ["::ffff:10.1.2.3"]):
        with pytest.raises(UrlRefused):
            check_addresses(answers, networks)
