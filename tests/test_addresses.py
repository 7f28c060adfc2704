"""Priors at addresses: fetched once from a server of this machine, compared, kept, and refused."""

import hashlib
import http.server
import socket
import threading
import urllib.request

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import small_energy
from mixer_files import made_network, write_network
from test_zoo import RECIPE

from scorepriors import InputError, _addresses, load_prior, prior_info, save_prior
from scorepriors._addresses import local_copy, prior_cache
from scorepriors._zoo import ENDINGS, lasting_name, prior_path
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._priors import load_priors


class Server(http.server.ThreadingHTTPServer):
    """Files by path; what is asked for is noted, and some answers are wrong on purpose."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.cut = {}, [], False
        self.says_length = True

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        if self.path.startswith("/away/"):
            self.send_response(302)
            self.send_header("Location", f"http://example.org{self.path.removeprefix('/away')}")
            self.end_headers()
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        whole = self.server.files[self.path]
        self.send_response(200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole[:-100] if self.server.cut else whole)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("SCOREPRIORS_CACHE", str(tmp_path / "cache"))
    # A proxy of whoever runs the tests has no business with this machine.
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def content(tmp_path):
    return save_prior(tmp_path / "made.safetensors", small_energy(), RECIPE).read_bytes()


@pytest.fixture
def address(server, content):
    server.files["/priors/small.safetensors"] = content
    return f"{server.address}/priors/small.safetensors"


def sum_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked for network")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)


def cached():
    return [path for path in prior_cache().rglob("*") if path.is_file()]


def test_a_prior_is_fetched_once(server, address, content):
    prior = load_prior(address, sha256=sum_of(content))
    assert (prior.name, prior.event_shape) == ("small", (8, 8))
    assert server.asked == ["/priors/small.safetensors"]
    (path,) = cached()
    assert path.read_bytes() == content
    assert (path.parent.name, path.name) == (sum_of(content), "small.safetensors")
    assert load_prior(address, sha256=sum_of(content).upper()) is prior
    assert len(server.asked) == 1


def test_what_is_kept_needs_no_network(server, address, content, request):
    local_copy(address, sum_of(content), endings=ENDINGS)
    request.getfixturevalue("offline")
    assert load_prior(address, sha256=sum_of(content)).name == "small"
    # The same file at another address is known by its checksum.
    elsewhere = "https://example.org/small.safetensors"
    assert load_prior(elsewhere, sha256=sum_of(content)).name == "small"
    with pytest.raises(AssertionError, match="asked for network"):
        load_prior(elsewhere, sha256="1" * 64)


def test_the_checksum_can_stand_in_the_address(server, address, content):
    whole = f"{address}#sha256={sum_of(content)}"
    assert prior_info(whole).name == "small"
    (prior,) = load_priors([whole], sigma=0.3)
    np.testing.assert_allclose(prior.sigma, 0.3)
    assert lasting_name(whole) == whole
    assert len(server.asked) == 1


def test_addresses_are_followed_where_a_file_has_moved(server, address, content):
    moved = address.replace("/priors", "/moved/priors")
    assert load_prior(moved, sha256=sum_of(content)).name == "small"
    assert server.asked == ["/moved/priors/small.safetensors", "/priors/small.safetensors"]


def test_repositories_of_hugging_face(server, content, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    server.files["/some-one/galaxies.v2/resolve/main/deep/small.safetensors"] = content
    server.files["/some-one/galaxies.v2/resolve/refs%2Fpr%2F1/small.safetensors"] = content
    wanted = sum_of(content)
    base = "hf://some-one/galaxies.v2"
    assert load_prior(f"{base}/deep/small.safetensors", sha256=wanted).name == "small"
    cached()[0].unlink()
    assert load_prior(f"{base}/small.safetensors@refs/pr/1#sha256={wanted}").name == "small"
    assert len(server.asked) == 2


def test_networks_of_galaxygrad_are_fetched_too(server, tmp_path):
    file = write_network(tmp_path / "a.eqx", made_network())
    server.files["/a.eqx"] = file.read_bytes()
    prior = load_prior(f"{server.address}/a.eqx", sha256=sum_of(file.read_bytes()))
    assert (prior.name, prior.event_shape) == ("a", (8, 8))


def test_another_file_is_refused_and_not_kept(server, address, content):
    with pytest.raises(InputError, match=r"gave a file with SHA-256 .*expected 000000000000"):
        load_prior(address, sha256="0" * 64)
    assert not cached()
    assert load_prior(address, sha256=sum_of(content)).name == "small"  # control


def test_a_transfer_that_is_cut_off(server, address, content):
    server.cut = True
    size = len(content)
    with pytest.raises(InputError, match=f"cut off after {size - 100} of {size} bytes"):
        load_prior(address, sha256=sum_of(content))
    assert not cached()
    server.cut = False
    assert load_prior(address, sha256=sum_of(content)).name == "small"


@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_that_is_too_large(says_length, server, address, content, monkeypatch):
    server.says_length = says_length
    monkeypatch.setattr(_addresses, "MOST_BYTES", len(content) - 1)
    with pytest.raises(InputError, match=r"small\.safetensors gives more than [\d,]+ bytes"):
        load_prior(address, sha256=sum_of(content))
    assert not list(prior_cache().iterdir())
    monkeypatch.setattr(_addresses, "MOST_BYTES", len(content))
    assert load_prior(address, sha256=sum_of(content)).name == "small"  # control


def test_files_that_have_moved_to_a_server_without_https(server, address, content):
    away = address.replace("/priors", "/away/priors")
    with pytest.raises(
        InputError, match=r"leads to http://example\.org/.*, which is no https:// address"
    ):
        load_prior(away, sha256=sum_of(content))
    assert server.asked == ["/away/priors/small.safetensors"]
    assert not cached()


@pytest.mark.parametrize(
    "hub", ["http://example.org", "ftp://127.0.0.1", "example.org", "http://["]
)
def test_mirrors_need_https_too(hub, offline, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    with pytest.raises(InputError, match="HF_ENDPOINT must be an https:// address, got"):
        load_prior("hf://a/b/p.eqx", sha256="0" * 64)
    monkeypatch.setenv("HF_ENDPOINT", "https://example.org")
    with pytest.raises(AssertionError, match="asked for network"):  # control
        load_prior("hf://a/b/p.eqx", sha256="0" * 64)


def test_a_file_that_is_not_there(server, address):
    with pytest.raises(InputError, match=r"none\.safetensors gave no file: 404 Not Found"):
        load_prior(address.replace("small", "none"), sha256="0" * 64)
    assert not cached()


def test_a_server_out_of_reach(server, content):
    with socket.socket() as taken:  # a port at which nothing listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=r"cannot reach http.*\(.*\), and .* does not have the file"
        ):
            load_prior(f"http://127.0.0.1:{port}/small.safetensors", sha256="0" * 64)


def test_a_damaged_cache_is_mended(server, address, content):
    local_copy(address, sum_of(content), endings=ENDINGS)
    (path,) = cached()
    path.write_bytes(content[:50])
    assert load_prior(address, sha256=sum_of(content)).name == "small"
    assert path.read_bytes() == content
    assert len(server.asked) == 2


def test_a_cache_that_cannot_be_written(server, address, content, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCOREPRIORS_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot keep a prior in .*SCOREPRIORS_CACHE names"):
        load_prior(address, sha256=sum_of(content))
    assert not server.asked


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SCOREPRIORS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prior_cache() == tmp_path / "scorepriors" / "priors"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://a.org/p.safetensors", r"add its checksum, as 'https://a\.org/p\.safetensors#sha"),
        ("https://a.org/p.safetensors#main", r"after the # .* only sha256="),
        ("https://a.org/p.safetensors#sha256=12", "must be 64 hexadecimal digits"),
        ("https://a.org/p.zip#sha256=" + "0" * 64, r"p\.zip is no file that ends in \.safetensors"),
        ("http://a.org/p.eqx#sha256=" + "0" * 64, "give https:// or hf://"),
        ("ftp://a.org/p.eqx#sha256=" + "0" * 64, "give https:// or hf://"),
        ("https://[a/p.eqx#sha256=" + "0" * 64, "give https:// or hf://"),
        ("hf://a/p.eqx#sha256=" + "0" * 64, "is hf://OWNER/REPOSITORY/FILE"),
    ],
)
def test_addresses_that_say_too_little(address, words, offline):
    with pytest.raises(InputError, match=words):
        load_prior(address)


def test_two_checksums_must_agree(offline):
    with pytest.raises(InputError, match="another checksum than that in"):
        load_prior("https://a.org/p.eqx#sha256=" + "0" * 64, sha256="1" * 64)


def test_checksums_of_files_and_names(tmp_path, content):
    path = tmp_path / "small.safetensors"
    path.write_bytes(content)
    assert load_prior(path, sha256=sum_of(content)).name == "small"
    with pytest.raises(InputError, match=r"small\.safetensors has SHA-256 .*expected 0000"):
        load_prior(path, sha256="0" * 64)
    whole = prior_path("lsst-32").read_bytes()
    assert load_prior("lsst-32", sha256=sum_of(whole)).name == "lsst-32"


def test_the_command_line_takes_addresses(server, address, tmp_path):
    wrong = f"{address}#sha256={'0' * 64}"
    found = CliRunner().invoke(
        main, ["deblend", "--example", "--prior", wrong, "--output", str(tmp_path / "out")]
    )
    assert found.exit_code == 2
    assert "gave a file with SHA-256" in found.output
    assert len(found.output.strip().splitlines()) == 1
