"""Whatever a model wrote is shown, and nothing of it is obeyed."""

from __future__ import annotations

import pytest

from tests.view_page.made import Rollout, made_file

SCRIPTS = [
    b"<script>window.evil = 1; alert(1)</script>",
    b"</script><script>window.evil = 1</script>",
    b"<img src=x onerror='window.evil = 1'>",
    b"<svg onload=window.evil=1>",
    b"<!--",
    b"]]>",
    b"<a href='javascript:window.evil=1'>x</a>",
    b"<style>body{display:none}</style>",
    b"<iframe srcdoc='<script>parent.evil=1</script>'></iframe>",
    b"<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    b"&lt;b&gt; &amp; \\u003cscript\\u003e ${window.evil=1} {{evil}}",
]
HIDDEN = {
    "\u202e": "\\u{202E}",  # turns what follows around
    "\u2066": "\\u{2066}",
    "\u200b": "\\u{200B}",
    "\ufeff": "\\u{FEFF}",
    "\u2028": "\\u{2028}",
    "\x1b": "\\e",
    "\x00": "\\0",
    "\x07": "\\u{0007}",
    "\x9b": "\\u{009B}",
    "\r": "\\r",
    "\t": "⇥",
    "\n": "↵",
    "\U000e0041": "\\u{E0041}",  # a letter of the invisible tags
    "\ue000": "\\u{E000}",
}
VIEWS = {
    "#/groups": ".groups tbody a",
    "#/group/0": ".group .board",
    "#/offenders": ".offenders",
    "#/about": ".about",
}


def group_of(texts, **more) -> bytes:
    return made_file([("g/0", [Rollout(texts=texts, settings=[([len(texts)], [1.0])])])], **more)


def shown(page) -> list[str]:
    page.wait_for_selector(".t")
    return page.eval_on_selector_all(".t[data-t]", "found => found.map(one => one.textContent)")


def test_scripts_are_text(open_file):
    page = open_file(group_of(SCRIPTS), "#/group/0")
    scripts = page.evaluate("document.scripts.length")
    assert shown(page) == [text.decode() for text in SCRIPTS]
    assert page.evaluate("window.evil === undefined")
    assert page.evaluate("document.scripts.length") == scripts
    assert page.locator("main img, main iframe, main style, main script, main meta").count() == 0
    assert page.locator(".tokens").is_visible()


@pytest.mark.parametrize("place", ["name", "answer", "prompt", "title", "facts", "offender"])
def test_scripts_are_text_wherever_they_stand(open_file, place):
    evil = "</title></script><script>window.evil = 1</script><img src=x onerror=window.evil=1>\u202e"
    rollout = Rollout(
        texts=[b"x"],
        settings=[([1], [1.0])],
        facts={"verify_status": evil, "extracted_answer": evil, "statuses": {evil: evil}} if place == "facts" else {},
    )
    row = {"group": 0, "rollout": 0, "chunk": None, "start": 0, "end": 1, "value": 1.0, "note": evil}
    worst = [{"kind": "gap", "title": evil, "rule": evil, "unit": evil, "setting": 0, "rows": [row]}]
    empty = [{"kind": "gap", "title": "t", "rule": "r", "unit": "", "setting": 0, "rows": []}]
    content = made_file(
        [(evil if place == "name" else "g/0", [rollout])],
        title=evil if place == "title" else "t",
        offenders=worst if place == "offender" else empty,
        **({place: evil} if place == "answer" else {"prompt": evil.encode()} if place == "prompt" else {}),
    )
    page = open_file(content)
    for fragment, there in VIEWS.items():
        page.evaluate(f"location.hash = '{fragment}'")
        page.wait_for_selector(there)
        assert page.evaluate("window.evil === undefined")
        assert page.locator("main img, main script").count() == 0
        assert "\u202e" not in page.evaluate("document.body.innerText")


def test_what_a_screen_hides_or_obeys_is_written_out(open_file):
    page = open_file(group_of([f"a{hidden}b".encode() for hidden in HIDDEN]), "#/group/0")
    escapes = page.locator(".t .escape").all_inner_texts()
    assert escapes == list(HIDDEN.values())
    visible = "".join(shown(page))
    assert not set(visible) & (set(HIDDEN) - {"\n"})


def test_parts_of_characters_are_shown_as_bytes(open_file):
    texts = [b"\xe2", b"\x88\x92", b"ok\xc3\xa9", b"\xff\xfe", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xc0\xaf"]
    page = open_file(group_of(texts), "#/group/0")
    assert shown(page) == ["\\xE2", "\\x88\\x92", "oké", "\\xFF\\xFE", "\\xED\\xA0\\x80", "😀", "\\xC0\\xAF"]


def test_escapes_cannot_be_forged(open_file):
    page = open_file(group_of([b"\\x1B", b"\x1b"]), "#/group/0")
    page.wait_for_selector(".t")
    assert page.locator("[data-t='0'] .escape").count() == 0
    assert page.locator("[data-t='1'] .escape").count() == 1


def test_a_token_turns_nothing_around_but_itself(open_file):
    hebrew = "\u05d0\u05d1\u05d2"
    page = open_file(group_of([b"one ", hebrew.encode(), b"123", hebrew.encode(), b" two"]), "#/group/0")
    page.wait_for_selector(".t")
    lefts = page.eval_on_selector_all(".t[data-t]", "found => found.map(one => one.getBoundingClientRect().left)")
    assert lefts == sorted(lefts)


def test_a_heap_of_combining_marks_is_taken_apart(open_file):
    page = open_file(group_of([("a" + "\u0301" * 50).encode()]), "#/group/0")
    page.wait_for_selector(".t")
    assert page.locator(".escape").count() == 47


def test_a_token_of_a_megabyte_is_cut_and_says_so(open_file):
    page = open_file(group_of([b"x", "é".encode() * 500_000, b"y"]), "#/group/0")
    texts = shown(page)
    assert texts[0] == "x"
    assert texts[2] == "y"
    assert texts[1] == "é" * 1000 + "… 998,000 more bytes"


def test_the_policy_lets_no_foreign_script_run(open_file, browser, tmp_path):
    content = group_of([b"x"])
    injected = content.replace(
        b"</body>", b"<script>window.evil = 1</script><img src=x onerror='window.evil=1'></body>"
    )
    assert injected != content
    file = tmp_path / "injected.html"
    file.write_bytes(injected)
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(file.as_uri())
    page.wait_for_selector("main")
    assert page.evaluate("window.evil === undefined")
    assert "TrustedHTML" in page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>'; } catch (error) { return String(error); } })()"
    )
    page.close()


def test_the_file_asks_nothing_of_a_network(open_file):
    content = group_of([b"x"])
    assert b"default-src 'none'" in content
    assert b"connect-src" not in content
    open_file(content)
