"""Every setting: good, bad, from the environment; and the key, which is never shown."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import pickle
from datetime import date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revenuebase_compat import ApiVersionRetiredError, ConfigurationError, Settings
from revenuebase_compat.core.settings import Secret, is_local
from tests.conftest import TEST_KEY
from tests.core.test_errors import everything_shown
from tests.core.test_routing import decided
from tests.support import AFTER, BEFORE, SUNSET, UTC

DEFAULTS = {
    "api_key": None,
    "base_url": "https://api.revenuebase.ai",
    "api_version": "auto",
    "v1_sunset": SUNSET,
    "after_sunset": "migrate",
    "v2_rollout": 0,
    "rollout_salt": "",
    "v2_flag": None,
    "on_event": None,
    "timeout": 60,
    "max_attempts": 3,
    "already_cancelled": "raise",
}
WITHOUT_VARIABLE = {"already_cancelled"}


def variable(name: str) -> str:
    return f"REVENUEBASE_{name.upper()}"


def flag(context: object) -> bool | None:
    return None


def value_of(settings: Settings, name: str) -> object:
    """A setting in the form it is given in."""
    value = getattr(settings, name)
    if isinstance(value, Secret):
        return value.reveal()
    return value.share(BEFORE) if name == "v2_rollout" else value


# Setting, what is given (a str is tried from the environment too), what it comes to.
GOOD: list[tuple[str, object, object]] = [
    ("api_key", TEST_KEY, TEST_KEY),
    ("api_key", f" \t{TEST_KEY}\r\n", TEST_KEY),
    ("api_key", f"\u00a0{TEST_KEY}\u3000", TEST_KEY),
    ("api_key", "!~", "!~"),
    ("api_key", None, None),
    ("base_url", "https://api.example.com", "https://api.example.com"),
    ("base_url", " https://api.example.com/ ", "https://api.example.com"),
    ("base_url", "HTTPS://API.Example.COM", "https://api.example.com"),
    ("base_url", "https://api.example.com:443/", "https://api.example.com"),
    ("base_url", "https://api.example.com:8443", "https://api.example.com:8443"),
    ("base_url", "https://api.example.com/Proxy/rb/", "https://api.example.com/Proxy/rb"),
    ("base_url", "https://api.example.com/a..b/.c", "https://api.example.com/a..b/.c"),
    ("base_url", "https://192.0.2.1", "https://192.0.2.1"),
    ("base_url", "https://api.example.com.", "https://api.example.com."),
    ("base_url", f"https://{'a' * 63}.example.com", f"https://{'a' * 63}.example.com"),
    ("base_url", "https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ("base_url", "http://localhost:8000", "http://localhost:8000"),
    ("base_url", "http://LocalHost:80/", "http://localhost"),
    ("base_url", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ("base_url", "http://127.8.9.1", "http://127.8.9.1"),
    ("base_url", "http://[::1]:8000", "http://[::1]:8000"),
    ("api_version", "auto", "auto"),
    ("api_version", "v1", "v1"),
    ("api_version", "v2", "v2"),
    ("api_version", ">=2", ">=2"),
    ("v1_sunset", "2026-07-07T02:00:00+02:00", SUNSET),
    ("v1_sunset", "2026-07-07", SUNSET),
    ("v1_sunset", "2026-08-01T00:00:00Z", AFTER),
    ("v1_sunset", "Sat, 01 Aug 2026 00:00:00 GMT", AFTER),
    ("v1_sunset", date(2026, 8, 1), AFTER),
    ("v1_sunset", datetime(2026, 8, 1), AFTER),  # noqa: DTZ001 (a naive one is the case)
    ("v1_sunset", datetime(2026, 7, 31, 20, tzinfo=timezone(timedelta(hours=-4))), AFTER),
    ("after_sunset", "migrate", "migrate"),
    ("after_sunset", "raise", "raise"),
    ("after_sunset", "try", "try"),
    ("v2_rollout", "5", 5),
    ("v2_rollout", "12.5%", 12.5),
    ("v2_rollout", " 5 % ", 5),
    ("v2_rollout", "0", 0),
    ("v2_rollout", "100", 100),
    ("v2_rollout", "2026-05-01=5,2026-06-15=50", 5),
    ("v2_rollout", "2026-06-15=50%, 2026-05-01 = 5%", 5),
    ("v2_rollout", "2026-06-01T02:00:00+02:00=7", 7),
    ("v2_rollout", 5, 5),
    ("v2_rollout", 12.5, 12.5),
    ("v2_rollout", {"2026-05-01": 5, date(2026, 6, 15): 50}, 5),
    ("v2_rollout", {BEFORE: 9}, 9),
    ("rollout_salt", "summer", "summer"),
    ("rollout_salt", "sömmer", "sömmer"),
    ("v2_flag", "flags:v2", "flags:v2"),
    ("v2_flag", "package.module:holder.attribute", "package.module:holder.attribute"),
    ("v2_flag", "_π1:ß", "_π1:ß"),
    ("v2_flag", flag, flag),
    ("v2_flag", None, None),
    ("on_event", print, print),
    ("timeout", "2.5", 2.5),
    ("timeout", 0.001, 0.001),
    ("timeout", 86_400, 86_400),
    ("max_attempts", "1", 1),
    ("max_attempts", 100, 100),
    ("max_attempts", 3.0, 3),
    ("already_cancelled", "return", "return"),
]


@pytest.mark.parametrize(("name", "given_", "expected"), GOOD, ids=[row[0] for row in GOOD])
def test_settings_take_what_is_good(name: str, given_: object, expected: object) -> None:
    assert value_of(Settings(**{name: given_}), name) == expected  # type: ignore[arg-type]
    if isinstance(given_, str) and name not in WITHOUT_VARIABLE:
        assert value_of(Settings.from_env({variable(name): given_}), name) == expected


# Setting, what is given, and what the message says would be right.
_URL = r"give https://host\[:port\]\[/prefix\], or http:// to loopback"
_VERSION = 'give "auto", "v1", "v2", or a specifier such as ">=2"'
_DATE = "give an ISO 8601 date such as 2026-07-07"
_SHARE = "give a share from 0 to 100 .percent., or steps such as 2026-06-01=5,2026-06-15=50"
_FLAG = "give a callable, or its name as package.module:attribute"
_KEY = "copy the key again"
BAD: list[tuple[str, object, str]] = [
    ("api_key", "rb_test_\u00e9", _KEY),
    ("api_key", "rb_test_\u200b", _KEY),
    ("api_key", "\ufeffrb_test_x", _KEY),
    ("api_key", "rb test x", _KEY),
    ("api_key", "rb_test\tx", _KEY),
    ("api_key", "rb_test\nx-other: 1", _KEY),
    ("api_key", "rb_test\x00", _KEY),
    ("api_key", "rb_test\x7f", _KEY),
    ("api_key", "rb_test\udcff", _KEY),
    ("api_key", b"rb_test_x", "give the key as a str"),
    ("api_key", 42, "give the key as a str"),
    ("base_url", "api.example.com", _URL),
    ("base_url", "http://api.example.com", "in the clear; " + _URL),
    ("base_url", "http://localhost.example.com", _URL),
    ("base_url", "http://127.0.0.1.example.com", _URL),
    ("base_url", "http://0.0.0.0:8000", _URL),
    ("base_url", "http://[::]:8000", _URL),
    ("base_url", "http://192.168.0.1", _URL),
    ("base_url", "ftp://api.example.com", _URL),
    ("base_url", "file:///etc/passwd", _URL),
    ("base_url", "https://", _URL),
    ("base_url", "https:///v2", _URL),
    ("base_url", "//api.example.com", _URL),
    ("base_url", "https://user:rb_test_x@api.example.com", "holds credentials; " + _URL),
    ("base_url", "https://api.example.com@evil.example", "holds credentials; " + _URL),
    ("base_url", "https://api.example.com?x=1", _URL),
    ("base_url", "https://api.example.com/?", _URL),
    ("base_url", "https://api.example.com#x", _URL),
    ("base_url", "https://api.example.com/a/../b", _URL),
    ("base_url", "https://api.example.com/.", _URL),
    ("base_url", "https://api.example.com/%2e%2e", _URL),
    ("base_url", "https://api.example.com/a b", _URL),
    ("base_url", "https://api.example.com\\evil", _URL),
    ("base_url", "https://api.example.com/a\r\nx-y: 1", _URL),
    ("base_url", "https://api.example.com:0", _URL),
    ("base_url", "https://api..example.com", _URL),
    ("base_url", "https://.example.com", _URL),
    ("base_url", f"https://{'a' * 64}.example.com", _URL),
    ("base_url", "https://192.0.2.999", "192.0.2.999 is no IP address; " + _URL),
    ("base_url", "https://192.0.2", "192.0.2 is no IP address; " + _URL),
    ("base_url", "https://[2001:db8::1::2]", _URL),
    ("base_url", "https://[2001:db8::99999]", _URL),
    ("base_url", "https://api.example.com:65536", _URL),
    ("base_url", "https://api.example.com:80:80", _URL),
    ("base_url", "https://api.example.com:x", _URL),
    ("base_url", "https://[::1", _URL),
    ("base_url", "https://[zz]", _URL),
    ("base_url", "https://[v1.example]", _URL),
    ("base_url", "https://[::1]example.com", _URL),
    ("base_url", "https://exämple.com", _URL),
    ("base_url", "", _URL),
    ("base_url", None, _URL),
    ("base_url", b"https://api.example.com", _URL),
    ("api_version", "V1", _VERSION),
    ("api_version", "2", _VERSION),
    ("api_version", "v3", _VERSION),
    ("api_version", ">=3", "admits neither v1 nor v2; " + _VERSION),
    ("api_version", "<1", "admits neither v1 nor v2; " + _VERSION),
    ("api_version", ">=", _VERSION),
    ("api_version", ",", _VERSION),
    ("api_version", "", _VERSION),
    ("api_version", 2, _VERSION),
    ("api_version", None, _VERSION),
    ("v1_sunset", "07/08/2026", _DATE),
    ("v1_sunset", "2026-07", _DATE),
    ("v1_sunset", "next week", _DATE),
    ("v1_sunset", "", _DATE),
    ("v1_sunset", 1783382400, _DATE),
    ("v1_sunset", None, _DATE),
    ("after_sunset", "Migrate", "give 'migrate' or 'raise' or 'try'"),
    ("after_sunset", True, "give 'migrate' or 'raise' or 'try'"),
    ("after_sunset", ["try"], "give 'migrate' or 'raise' or 'try'"),
    ("v2_rollout", -0.1, _SHARE),
    ("v2_rollout", 100.1, _SHARE),
    ("v2_rollout", "101%", _SHARE),
    ("v2_rollout", "5%%", _SHARE),
    ("v2_rollout", "half", _SHARE),
    ("v2_rollout", float("nan"), _SHARE),
    ("v2_rollout", "inf", _SHARE),
    ("v2_rollout", True, _SHARE),
    ("v2_rollout", None, _SHARE),
    ("v2_rollout", "", _SHARE),
    ("v2_rollout", {}, _SHARE),
    ("v2_rollout", {"2026-06-01": True}, _SHARE),
    ("v2_rollout", {"06/01/2026": 5}, "'06/01/2026' is no date; " + _SHARE),
    ("v2_rollout", "2026-06-01=5,", "'' is no date; " + _SHARE),
    ("v2_rollout", "2026-06-01=", _SHARE),
    ("v2_rollout", "2026-06-01=5=6", _SHARE),
    ("v2_rollout", "=5", _SHARE),
    ("v2_rollout", "2026-06-01=5,2026-06-01T00:00Z=6", "has two steps at .*; " + _SHARE),
    ("v2_rollout", "2026-06-01=5;2026-06-15=50", _SHARE),
    ("rollout_salt", 5, "give a str"),
    ("rollout_salt", None, "give a str"),
    ("v2_flag", "flags", _FLAG),
    ("v2_flag", "flags:", _FLAG),
    ("v2_flag", ":v2", _FLAG),
    ("v2_flag", "flags.:v2", _FLAG),
    ("v2_flag", "fla-gs:v2", _FLAG),
    ("v2_flag", "1flags:v2", _FLAG),
    ("v2_flag", "flags:v2()", _FLAG),
    ("v2_flag", "flags:a:b", _FLAG),
    ("v2_flag", "flags:v2\n", _FLAG),
    ("v2_flag", "", _FLAG),
    ("v2_flag", True, "give a callable"),
    ("on_event", "print", _FLAG),
    ("on_event", 5, "give a callable"),
    ("timeout", 0, "give seconds, more than 0 and at most 86400"),
    ("timeout", -1, "give seconds"),
    ("timeout", 86_400.5, "give seconds"),
    ("timeout", float("inf"), "give seconds"),
    ("timeout", "nan", "give seconds"),
    ("timeout", "ten", "give seconds"),
    ("timeout", "60s", "give seconds"),
    ("timeout", "", "give seconds"),
    ("timeout", True, "give seconds"),
    ("timeout", None, "give seconds"),
    ("timeout", timedelta(seconds=5), "give seconds"),
    ("max_attempts", 0, "give a whole number from 1 to 100"),
    ("max_attempts", 101, "give a whole number"),
    ("max_attempts", 2.5, "give a whole number"),
    ("max_attempts", "two", "give a whole number"),
    ("max_attempts", True, "give a whole number"),
    ("max_attempts", None, "give a whole number"),
    ("already_cancelled", "ignore", "give 'raise' or 'return'"),
    ("already_cancelled", None, "give 'raise' or 'return'"),
    *((name, 10**5000, "give") for name in DEFAULTS),
]


@pytest.mark.parametrize(("name", "given_", "right"), BAD, ids=[row[0] for row in BAD])
def test_settings_name_what_is_bad_with_what_would_be_right(
    name: str, given_: object, right: str
) -> None:
    with pytest.raises(ConfigurationError, match=right) as caught:
        Settings(**{name: given_})  # type: ignore[arg-type]
    check_message(caught.value, name)
    if isinstance(given_, str) and given_.strip() == given_ != "" and name not in WITHOUT_VARIABLE:
        with pytest.raises(ConfigurationError, match=right) as caught:
            Settings.from_env({variable(name): given_})
        check_message(caught.value, name)


def check_message(error: ConfigurationError, name: str) -> None:
    message = str(error)
    assert message.startswith(name)
    assert (variable(name) in message) is (name not in WITHOUT_VARIABLE)
    assert len(message) < 400
    assert "\n" not in message


def test_settings_show_a_bad_value_unless_it_may_hold_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="'07/08/2026'"):
        Settings(v1_sunset="07/08/2026")
    with pytest.raises(ConfigurationError) as caught:
        Settings(base_url="https://user:hunter2@api.example.com")
    assert "hunter2" not in str(caught.value)


def test_settings_have_these_defaults() -> None:
    settings = Settings()
    assert {name: value_of(settings, name) for name in DEFAULTS} == DEFAULTS
    assert {item.name for item in dataclasses.fields(settings) if item.init} == set(DEFAULTS)
    assert settings == Settings.from_env({})


@pytest.mark.parametrize(
    ("api_version", "v1", "v2"),
    [
        ("auto", True, True),
        ("v1", True, False),
        ("v2", False, True),
        (">=1", True, True),
        (">=2", False, True),
        ("<2", True, False),
        ("==1", True, False),
        ("!=1", False, True),
        ("~=2.0", False, True),
        (">1,<3", False, True),
        (" >= 2 ", False, True),
    ],
)
def test_settings_admit_these_versions(api_version: str, v1: bool, v2: bool) -> None:
    settings = Settings(api_version=api_version)
    assert (settings.admits_v1, settings.admits_v2) == (v1, v2)


# One text for each variable, that is not its default, and another to be given explicitly.
ENVIRONMENT: dict[str, tuple[str, object]] = {
    "api_key": ("rb_test_environment", "rb_test_explicit"),
    "base_url": ("https://environment.example", "https://explicit.example"),
    "api_version": ("v1", "v2"),
    "v1_sunset": ("2026-08-01", BEFORE),
    "after_sunset": ("raise", "try"),
    "v2_rollout": ("5", 50),
    "rollout_salt": ("environment", "explicit"),
    "v2_flag": ("environment:flag", flag),
    "on_event": ("environment:record", print),
    "timeout": ("5", 50),
    "max_attempts": ("5", 50),
}


def test_from_env_covers_the_environment() -> None:
    assert set(ENVIRONMENT) == set(DEFAULTS) - WITHOUT_VARIABLE


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_from_env_prefers_explicit_over_environment_over_default(name: str) -> None:
    text, explicit = ENVIRONMENT[name]
    environ = {variable(name): text}
    from_text = value_of(Settings(**{name: text}), name)  # type: ignore[arg-type]
    assert from_text != DEFAULTS[name]
    assert value_of(Settings.from_env(environ), name) == from_text
    assert value_of(Settings.from_env(environ, **{name: None}), name) == from_text
    assert value_of(Settings.from_env(environ, **{name: explicit}), name) == explicit
    assert value_of(Settings.from_env({}, **{name: explicit}), name) == explicit


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_from_env_takes_an_empty_variable_for_unset(name: str, empty: str) -> None:
    assert Settings.from_env({variable(name): empty}) == Settings()


def test_from_env_takes_a_falsy_explicit_value_for_a_value() -> None:
    environ = {"REVENUEBASE_V2_ROLLOUT": "50", "REVENUEBASE_ROLLOUT_SALT": "summer"}
    settings = Settings.from_env(environ, v2_rollout=0, rollout_salt="")
    assert value_of(settings, "v2_rollout") == 0
    assert settings.rollout_salt == ""


def test_from_env_takes_settings_without_a_variable() -> None:
    settings = Settings.from_env({}, on_event=print, already_cancelled="return")
    assert (settings.on_event, settings.already_cancelled) == (print, "return")


def test_from_env_reads_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in ENVIRONMENT.items():
        monkeypatch.setenv(variable(name), text)
    assert Settings.from_env() == Settings.from_env(os.environ)
    assert Settings.from_env().max_attempts == 5


def test_settings_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    for name in ENVIRONMENT:
        monkeypatch.setenv(variable(name), "\x01")
    assert Settings() == before


@pytest.mark.parametrize("name", ["api_kye", "admits_v1", "stripped_key", "http_client"])
def test_from_env_names_a_setting_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no setting '{name}'"):
        Settings.from_env({}, **{name: "x"})
    with pytest.raises(TypeError, match=name):
        Settings(**{name: "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*DEFAULTS, "admits_v1"])
def test_settings_are_frozen(name: str) -> None:
    settings = Settings(TEST_KEY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(settings, name)


def test_settings_compare_hash_and_replace() -> None:
    settings = Settings(TEST_KEY, timeout=5)
    assert settings == Settings(f" {TEST_KEY}", timeout="5")
    assert hash(settings) == hash(Settings(TEST_KEY, timeout=5))
    assert settings != Settings("rb_test_other", timeout=5)
    changed = dataclasses.replace(settings, timeout=7)
    assert changed == Settings(TEST_KEY, timeout=7)
    with pytest.raises(ConfigurationError, match="timeout"):
        dataclasses.replace(settings, timeout=0)


@pytest.mark.parametrize(
    ("key", "stripped"),
    [(TEST_KEY, False), (f"{TEST_KEY} ", True), (f"\n{TEST_KEY}", True), (" ", False)],
)
def test_settings_notice_white_space_around_the_key(key: str, stripped: bool) -> None:
    assert Settings(key).stripped_key is stripped
    assert Settings.from_env({"REVENUEBASE_API_KEY": key}).stripped_key is stripped
    assert Settings.from_env({}, api_key=key).stripped_key is stripped


def test_settings_never_show_the_key() -> None:
    settings = Settings(TEST_KEY)
    assert settings.api_key is not None
    assert settings.api_key.reveal() == TEST_KEY
    for shown in (settings, settings.api_key, vars(settings), dataclasses.fields(settings)):
        assert TEST_KEY not in f"{shown} {shown!r} {shown!s} {[shown]}"
    assert "***" in repr(settings)


def test_settings_do_not_pickle_the_key() -> None:
    settings = Settings(TEST_KEY, timeout=5)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(settings, protocol)
        assert TEST_KEY.encode() not in data
        assert pickle.loads(data) == Settings(timeout=5)  # noqa: S301 (our own)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(settings.api_key)


def test_settings_copied_keep_the_key_and_hide_it() -> None:
    settings = Settings(TEST_KEY)
    for twin in (copy.copy(settings), copy.deepcopy(settings), copy.deepcopy([settings])[0]):
        assert twin == settings
        assert TEST_KEY not in repr(twin)


BAD_KEYS = [f"{TEST_KEY} x", f"{TEST_KEY}\x00", f"{TEST_KEY}é", f"x\n{TEST_KEY}"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_settings_show_no_key_in_an_error_about_it(key: str) -> None:
    attempts: list[tuple[Any, dict[str, Any]]] = [
        (Settings, {"api_key": key}),
        (Settings, {"api_key": Secret(key)}),
        (Settings.from_env, {"api_key": key, "environ": {}}),
        (Settings.from_env, {"environ": {"REVENUEBASE_API_KEY": key}}),
    ]
    for make, arguments in attempts:
        with pytest.raises(ConfigurationError, match="api_key") as caught:
            make(**arguments)
        assert TEST_KEY not in everything_shown(caught.value)


@pytest.mark.parametrize("make", [Settings, partial(Settings.from_env, {})])
def test_settings_refuse_a_key_that_is_no_text_and_do_not_show_it(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"api_key .*is a bytes; give") as caught:
        make(api_key=TEST_KEY.encode())
    assert TEST_KEY not in everything_shown(caught.value)


@pytest.mark.parametrize("wrong", ["timeout", "base_url", "v2_rollout", "nonsense"])
def test_settings_show_no_key_in_an_error_about_another(wrong: str) -> None:
    environ = {"REVENUEBASE_API_KEY": TEST_KEY}
    attempts: list[tuple[Any, dict[str, Any]]] = [
        (Settings.from_env, {"environ": environ, wrong: "?"}),
        (Settings.from_env, {"environ": {}, "api_key": TEST_KEY, wrong: "?"}),
    ]
    if wrong != "nonsense":
        attempts += [
            (Settings, {"api_key": TEST_KEY, wrong: "?"}),
            (Settings.from_env, {"environ": {**environ, variable(wrong): "?"}}),
        ]
    for make, arguments in attempts:
        with pytest.raises(ConfigurationError, match=wrong) as caught:
            make(**arguments)
        assert TEST_KEY not in everything_shown(caught.value)


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers())
    | st.dictionaries(st.text() | st.dates() | st.datetimes(), st.floats() | st.text())
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.from_regex(r"https?://[a-z0-9.:\[\]/@%-]+")
    | st.from_regex(r"[<>=!~]=?[0-9.]+(,[<>=!~]=?[0-9.]+)?")
    | st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]=[0-9]+%?")
)


@given(st.sampled_from(sorted(DEFAULTS)), anything)
def test_settings_work_or_are_refused_whatever_is_given(name: str, value: object) -> None:
    with contextlib.suppress(ConfigurationError):
        settings = Settings(**{name: value})  # type: ignore[arg-type]
        for now in (BEFORE, SUNSET, AFTER):
            with contextlib.suppress(ApiVersionRetiredError):
                decided(settings, now)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.2", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"]
)
def test_is_local(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["api.revenuebase.ai", "10.0.0.1", "::ffff:10.0.0.1", "", "x:y"])
def test_is_not_local(host: str) -> None:
    assert not is_local(host)
