"""The page of `ddpm serve`, used as a person would."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

from watched import Watched


class Server:
    """`ddpm serve` of a run and a folder of runs, at any port that is free."""

    def __init__(self, program, paths, cwd):
        command = [program, "serve", *paths, "--port", "0", "--device", "cpu", "--threads", "1"]
        self.process = subprocess.Popen(
            map(str, command), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = ""
        for line in self.process.stdout:
            said += line
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", line)
            if found:
                self.address = found[0]
                return
        raise SystemExit(f"ddpm serve printed no address:\n{said}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def check(program, run, cwd, browser, axe, shots):
    faults = []
    folder = Path(cwd) / "later"
    folder.mkdir()
    with Server(program, [run, folder], cwd) as server:
        origin = server.address.split("/?")[0]
        faults += without_token(browser, origin)
        for scheme, width in [("light", 1200), ("dark", 390)]:
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, accept_downloads=True)
            watched = Watched(context, (origin, "data:", f"blob:{origin}"))
            page = watched.page
            page.goto(server.address)
            watched.expect("token" not in page.url, f"the token stays in the address: {page.url}")
            watched.until("document.querySelector('#network').options.length > 0")
            watched.expect_to_fit()
            watched.expect_accessible(context, axe, f"serve, {scheme}, {width} px")
            if width > 1000:
                use(watched, context, axe, Path(cwd), shots)
                begin_a_run(watched, Path(cwd) / run, folder)
            elif shots:
                page.screenshot(path=shots / "serve-phone-dark.png", full_page=True)
            faults += [f"serve: {fault}" for fault in watched.faults]
            context.close()
    return faults


def begin_a_run(watched, run, folder):
    """One that begins meanwhile can be chosen, and what is chosen stays."""
    chosen = watched.page.input_value("#network")
    shutil.copytree(run, folder / "begun")
    watched.until("document.querySelector('#network').options.length === 2")
    watched.until("document.querySelectorAll('#run-rows tr').length === 2")
    watched.expect(watched.page.input_value("#network") == chosen, "another network is chosen when a run begins")


def without_token(browser, origin):
    context = browser.new_context()
    answer = context.new_page().goto(f"{origin}/")
    context.close()
    return [] if answer.status == 401 else [f"serve: without a token it answers {answer.status}"]


def use(watched, context, axe, cwd, shots):
    page, expect = watched.page, watched.expect
    is_done = "!document.querySelector('#save').hidden"

    def shoot(name):
        if shots:
            page.screenshot(path=shots / f"serve-{name}.png", full_page=True)

    # Images from noise, and their file.
    page.fill("#steps", "10")
    page.fill("#seed", "7")
    page.fill("#number", "4")
    page.click("#go")
    watched.until(is_done)
    with page.expect_download() as download:
        page.click("#save")
    made = cwd / "made.png"
    download.value.save_as(made)
    expect(made.read_bytes().startswith(b"\x89PNG"), "what is downloaded is no PNG file")
    shoot("made")

    # Between two seeds: the slider shows other images.
    page.check("input[value=interpolate]")
    page.fill("#to-seed", "9")
    page.fill("#number", "6")
    page.click("#go")
    watched.until(f"{is_done} && document.querySelector('#slide-text').textContent.includes('from seed 7 to 9')")
    addresses = set()
    for place in (1, 3, 6):
        page.locator("#slide").fill(str(place))
        addresses.add(page.get_attribute("#picture", "src"))
    expect(len(addresses) == 3, f"the slider shows {addresses}")
    shoot("between")

    # The file fills the form, and begins a variation; then a part of it is filled in under a painted mask.
    page.fill("#seed", "1")
    page.check("input[value=vary]")
    page.set_input_files("#file", str(made))
    watched.until("document.querySelector('#seed').value === '7'")
    page.check("input[value=fill]")
    watched.until("document.querySelector('#original').naturalWidth > 0")
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    at = lambda x, y: (box["x"] + box["width"] * x, box["y"] + box["height"] * y)
    page.mouse.move(*at(0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*at(0.7, 0.6), steps=5)
    page.mouse.up()
    painted = "Array.from(document.querySelector('#mask').getContext('2d').getImageData(0, 0, 8, 8).data).some((v) => v > 0)"
    expect(page.evaluate(painted), "nothing is painted")
    page.fill("#steps", "")
    page.fill("#number", "2")
    page.fill("#passes", "1")
    page.click("#go")
    watched.until(f"{is_done} && document.querySelector('#stage-title').textContent.includes('filled in')")
    watched.expect_accessible(context, axe, "serve, a part filled in")
    shoot("filled")

    # The runs, and the report of one.
    page.click("nav a[href='#runs']")
    page.locator("#run-rows button").first.click()
    report = page.frame_locator("#report-frame")
    report.locator("figure.chart").first.wait_for()
    watched.expect_accessible(context, axe, "serve, the runs")
    shoot("runs")
