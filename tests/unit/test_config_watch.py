"""A configuration that changes under a running worker: what is taken over, when, and what is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pushq.app_settings import AppSettings, load_apps
from pushq.errors import SettingsError
from pushq.reload import ConfigWatch, digest, section_digest

FCM = """
[apps.{app}.fcm]
project_id = "{project}"
service_account_file = "{secret}"
"""


@dataclass
class Site:
    """A configuration on disk, its watch, and what the watch made the process use."""

    folder: Path
    watch: ConfigWatch = field(init=False)
    applied: list[Mapping[str, AppSettings]] = field(default_factory=list)
    refuse: str | Exception | None = None
    during_settling: list[Callable[[], object]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "pushq.toml"

    def write(self, *apps: tuple[str, str, str]) -> None:
        """Each app with its project and the name of its secret's file."""
        self.config.write_text("".join(FCM.format(app=a, project=p, secret=s) for a, p, s in apps))

    def secret(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def begin(self, apps: Mapping[str, AppSettings] | None = None) -> None:
        self.watch = ConfigWatch(
            self.config, apps or load_apps(self.config), self._apply, interval_s=60.0, settle_s=0.0
        )

    def _apply(self, apps: Mapping[str, AppSettings]) -> None:
        if isinstance(self.refuse, Exception):
            raise self.refuse
        if self.refuse is not None:
            raise SettingsError(self.refuse)
        self.applied.append(apps)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.secret("one.json", "first")
    site.write(("shop", "shop-one", "one.json"))
    site.begin()
    return site


def failed() -> float | None:
    return REGISTRY.get_sample_value("pushq_config_reload_failed")


def test_nothing_changed_and_nothing_is_done(site: Site) -> None:
    assert not site.watch.look()
    assert site.applied == []


def test_what_changed_between_loading_and_watching_is_taken_over(site: Site) -> None:
    """A worker connects to its servers in between, which may take long."""
    loaded = load_apps(site.config)
    site.write(("shop", "shop-two", "one.json"))
    site.begin(loaded)
    assert site.watch.look()
    assert not site.watch.look()
    assert [apps["shop"].fcm.project_id for apps in site.applied if apps["shop"].fcm] == ["shop-two"]


def test_a_file_that_was_only_touched_changes_nothing(site: Site) -> None:
    site.config.touch()
    site.secret("one.json", "first")
    assert not site.watch.look()
    assert (site.applied, failed()) == ([], 0)


def test_another_app_is_taken_over_once(site: Site) -> None:
    site.secret("two.json", "second")
    site.write(("shop", "shop-one", "one.json"), ("news", "news-one", "two.json"))
    assert site.watch.look()
    assert not site.watch.look()
    assert [sorted(apps) for apps in site.applied] == [["news", "shop"]]


def test_the_content_of_a_secret_counts_whatever_its_size_and_time(site: Site) -> None:
    before = (site.folder / "one.json").stat()
    site.secret("one.json", "FIRST")
    os.utime(site.folder / "one.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert site.watch.look()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda site: site.config.write_text("[apps.shop"), "not TOML"),
        (lambda site: site.config.write_text(""), "found no app"),
        (lambda site: site.config.unlink(), "cannot be read"),
        (lambda site: (site.folder / "one.json").unlink(), "apps.shop.fcm.service_account_file"),
        (lambda site: site.write(("shop", "Not A Project", "one.json")), "apps.shop.fcm.project_id"),
    ],
)
def test_a_broken_configuration_keeps_the_old_one_and_says_so(
    site: Site, break_it: Callable[[Site], object], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = site.watch.state.digest
    break_it(site)
    assert not site.watch.look()
    assert not site.watch.look()
    assert (site.applied, failed()) == ([], 1)
    assert says in site.watch.state.failed
    assert site.watch.state.digest == before
    errors = [record for record in caplog.records if record.message == "config_reload_failed"]
    assert [record.levelname for record in errors] == ["ERROR"]  # once, not with every look
    site.secret("one.json", "first")
    site.write(("shop", "shop-two", "one.json"))
    assert site.watch.look()
    assert (failed(), site.watch.state.failed) == (0, "")


def test_a_secret_that_the_process_cannot_use_keeps_the_old_configuration(site: Site) -> None:
    site.refuse = "apps.shop.fcm.service_account_file: found no service account"
    site.secret("one.json", "nonsense")
    assert not site.watch.look()
    assert failed() == 1
    site.refuse = None
    assert site.watch.look()
    assert failed() == 0


def test_so_does_one_that_breaks_in_a_way_that_nobody_foresaw(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch whose credential was refused looks, too: it must not end with what the file did to the look."""
    site.refuse = ValueError("error parsing asn1 value")
    site.secret("one.json", "nonsense")
    assert not site.watch.look()
    assert (site.watch.state.failed, failed()) == ("ValueError: error parsing asn1 value", 1)
    (error,) = [record for record in caplog.records if record.message == "config_reload_failed"]
    assert error.exc_info is not None
    site.refuse = None
    assert site.watch.look()
    assert (site.watch.state.failed, failed()) == ("", 0)


def test_a_missing_secret_of_a_new_configuration_is_waited_for(site: Site) -> None:
    """The configuration itself does not change again when the file that it names appears at last."""
    site.write(("shop", "shop-one", "late.json"))
    assert not site.watch.look()
    site.secret("late.json", "second")
    assert site.watch.look()
    assert site.applied[0]["shop"].fcm is not None
    assert site.applied[0]["shop"].fcm.service_account_file.name == "late.json"


def test_going_back_to_what_is_in_use_ends_the_failure_without_a_change(site: Site) -> None:
    text = site.config.read_text()
    site.config.write_text("[apps.shop")
    assert not site.watch.look()
    site.config.write_text(text)
    assert not site.watch.look()
    assert (site.applied, failed()) == ([], 0)


def test_a_file_that_is_still_being_written_is_left_to_the_next_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there first is valid TOML, and would remove an app."""
    site.secret("two.json", "second")
    both = (("shop", "shop-one", "one.json"), ("news", "news-one", "two.json"))
    site.write(*both)
    assert site.watch.look()
    site.write(("shop", "shop-two", "one.json"))
    monkeypatch.setattr(
        "pushq.reload.watch.pause", lambda _: site.write(*both, ("more", "more-one", "two.json"))
    )
    assert not site.watch.look()
    monkeypatch.undo()
    assert site.watch.look()
    assert [sorted(apps) for apps in site.applied] == [["news", "shop"], ["more", "news", "shop"]]


def test_digests_speak_of_contents(site: Site, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    twin = Site(elsewhere)
    twin.secret("one.json", "first")
    twin.write(("shop", "shop-one", "one.json"))
    apps, twins = load_apps(site.config), load_apps(twin.config)
    assert digest(site.config, apps) == digest(twin.config, twins)
    ours, theirs = apps["shop"].fcm, twins["shop"].fcm
    assert ours is not None
    assert theirs is not None
    limited = ours.model_copy(update={"rate_per_minute": 60})
    assert section_digest(limited) == section_digest(ours)  # limits are no reason for another client
    before = section_digest(theirs)
    assert section_digest(load_apps(twin.config)["shop"].platforms()["fcm"]) == before
    twin.secret("one.json", "FIRST")
    assert section_digest(theirs) != before


def test_a_file_that_moved_is_a_reason_for_another_client(site: Site) -> None:
    """It goes on reading some of them: a certificate that is no longer there would never be said to end."""
    site.secret("renamed.json", "first")
    before = load_apps(site.config)["shop"].platforms()["fcm"]
    site.write(("shop", "shop-one", "renamed.json"))
    after = load_apps(site.config)["shop"].platforms()["fcm"]
    assert section_digest(after) != section_digest(before)
