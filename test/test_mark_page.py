"""The page of `lmeec mark` in a real browser, on the sample take."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest

from lmeec_core.evaluation import mask_metrics
from lmeec_core.takes import Take, decode_image

SAMPLE = Path(__file__).parent / "data" / "sample_take"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
SECONDS = 60

pytest.importorskip("nicegui", reason="needs the extra [mark]")
webdriver: Any = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra [dev])")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"
)


class Served(NamedTuple):
    """The page's address with its token, and the file that it saves to."""

    address: str
    prompts: Path

    @property
    def plain(self) -> str:
        """The address without token."""
        return self.address.partition("?")[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The command as a process; it can be reached from anywhere, and so has a token."""
    folder = tmp_path_factory.mktemp("mark")
    command = [sys.executable, "-P", "-u", "-m", "lmeec_core.cli", "mark", str(SAMPLE)]
    command += ["--host", "0.0.0.0", "--port", "0", "--prompts", str(folder / "prompts.json")]
    errors = folder / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=folder
        )
    try:
        lines = iter(process.stdout.readline, "")  # type: ignore[union-attr]
        said = next((line for line in lines if "http://" in line), None)
        assert said is not None, errors.read_text()
        yield Served(said.split()[-1], folder / "prompts.json")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, errors.read_text()
        assert errors.read_text() == ""
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1500,900",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def until(browser: Any, what: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException as Stale
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, SECONDS, poll_frequency=0.1, ignored_exceptions=(Stale,))
    return wait.until(lambda _: what())


def elements(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def click(browser: Any, camera: int, x: float, y: float, shift: bool = False) -> None:
    """Click on a camera's picture; x and y in pixels of the image, which is 320 x 320."""
    from selenium.webdriver.common.keys import Keys

    picture = elements(browser, "img")[camera]
    scale = picture.size["width"] / 320
    actions = webdriver.ActionChains(browser)
    if shift:
        actions.key_down(Keys.SHIFT)
    actions.move_to_element_with_offset(picture, round((x - 160) * scale), round((y - 160) * scale))
    actions.click()
    if shift:
        actions.key_up(Keys.SHIFT)
    actions.perform()


def press(browser: Any, text: str) -> None:
    (button,) = (b for b in elements(browser, "button") if text in b.text)
    button.click()


def shown_mask(browser: Any, camera: int, plain: np.ndarray) -> np.ndarray:
    """Where the picture on the page is not the camera's image."""
    browser.set_script_timeout(SECONDS)
    data = browser.execute_async_script(
        "const [image, done] = arguments;"
        "fetch(image.src).then(r => r.arrayBuffer()).then(b => done([...new Uint8Array(b)]))",
        elements(browser, "img")[camera],
    )
    apart = np.abs(decode_image(bytes(data)).astype(int) - plain).max(axis=2)
    mask: np.ndarray = apart > 40
    return mask


@needs_chromium
def test_a_click_on_an_object_shows_it_in_the_other_views(served: Served, browser: Any) -> None:
    """Marked, corrected, undone, saved, and tracked until it is stopped."""
    take = Take.open(SAMPLE)
    browser.get(served.address)
    until(browser, lambda: len([i for i in elements(browser, "img") if i.size["height"] > 99]) == 3)
    name = elements(browser, "input[aria-label='Object']")[0]
    name.send_keys("\ue009", "a")  # Ctrl
    name.send_keys("pail")
    click(browser, 0, 119, 178)
    until(browser, lambda: [s.text.count("pail") for s in elements(browser, ".seen")] == [1, 1, 1])
    texts = [s.text for s in elements(browser, ".seen")]
    assert "query view" in texts[0] and all("presence 0." in text for text in texts[1:]), texts
    for index, camera in enumerate(take.cameras):
        truth = take.mask("pail_1", camera, 0)
        found = shown_mask(browser, index, take.image(camera, 0))
        assert truth is not None and mask_metrics(found, truth)[0] > 0.5, camera

    click(browser, 0, 30, 30, shift=True)
    until(browser, lambda: "− 30, 30" in browser.page_source)
    press(browser, "Undo")
    until(browser, lambda: "− 30, 30" not in browser.page_source)
    press(browser, "Save")
    until(browser, lambda: "lmeec track" in browser.page_source)
    (prompt,) = json.loads(served.prompts.read_text())["prompts"]
    assert (prompt["frame"], prompt["camera"], prompt["object"]) == (0, "aria01", "pail")
    assert np.allclose(prompt["points"], [[119, 178]], atol=1) and prompt["labels"] == [1]

    press(browser, "Track")
    until(browser, lambda: "masks on 2 of 40" in browser.page_source)
    press(browser, "Stop")
    until(browser, lambda: "invisible" in elements(browser, ".busy")[0].get_attribute("class"))
    elements(browser, "button[aria-label='Next frame']")[0].click()
    until(browser, lambda: "frame 30 (2 of 40)" in browser.page_source)
    until(browser, lambda: "frame=30" in elements(browser, "img")[2].get_attribute("src"))
    assert "pail" in elements(browser, ".seen")[1].text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("how", ["no token", "a wrong token", "another page"])
def test_others_are_refused(how: str, served: Served) -> None:
    """The page, a picture, and the web socket that everything else goes through."""
    token = {"no token": "", "a wrong token": "token=guess"}.get(
        how, urlsplit(served.address).query
    )
    headers = {"Origin": "http://lmeec.example"} if how == "another page" else {}
    for path in ("", "view?camera=aria01&frame=0&version=0&", "_nicegui_ws/socket.io/?EIO=4&"):
        asked = f"{served.plain}{path}{'' if '?' in path else '?'}{token}"
        request = urllib.request.Request(asked, headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 403 and b"refused: " in refused.value.read(), path


@needs_chromium
def test_the_page_of_several_methods_lists_the_worst_frames_first(
    browser: Any, tmp_path: Path
) -> None:
    """`lmeec view --html`, opened from disk: views, curves and the table, and a click in it."""
    from lmeec_core.overlay import Colours
    from lmeec_core.viewing.comparison import side_by_side
    from lmeec_core.viewing.html_file import HtmlWriter
    from lmeec_core.viewing.moments import Moment, View

    truth = np.zeros((48, 64), bool)
    truth[10:30, 10:30] = True
    image = np.full((48, 64, 3), 99, np.uint8)

    def moments(shift: int) -> Iterator[Moment]:
        for frame in range(6):
            found = np.roll(truth, shift * frame, axis=1)
            view = View("cam01", image, {"cup": found}, {"cup": truth}, {"cup": 0.9})
            yield Moment(10 * frame, frame / 3, View("aria01", image, {"cup": truth}), [view])

    page = tmp_path / "x.html"
    with HtmlWriter(page, Colours(), 96, "both") as writer:
        for moment in side_by_side({"good": moments(1), "bad": moments(3)}, lambda _: None):
            writer.add(moment)
    browser.get(page.as_uri())
    assert len(elements(browser, "figure")) == 1 + 2 + 2  # views, and curves of IoU and presence
    lines = [line.text for line in elements(browser, "#worst tbody tr")]
    assert "6 frames" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["50", "40", "30", "20", "10", "0"]
    assert "0.596 (p 0.90) 0.141 (p 0.90)" in lines[1]  # at the size of `lmeec evaluate`
    elements(browser, "#worst tbody tr")[3].click()
    assert "frame 30" in elements(browser, "#time")[0].text
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.row canvas')].map(c =>"
        " [...c.getContext('2d').getImageData(0, 40, c.width, 1).data])"
    )
    good, bad = (np.reshape(row, (-1, 4))[:, :3].astype(int) for row in drawn)
    assert (good != bad).any() and (np.ptp(good, axis=0) > 20).any()
