"""Opens what ddpm shows in a browser, and uses it as a person would: reports, and the page of `ddpm serve`.

    .venv/bin/python scripts/browser/check.py [--program target/release/ddpm] [--shots DIR]

Needs Debian's Chromium (`apt install chromium`); without it, it says so and ends well. Any fault ends it with status 1:
an error in the console, anything asked of the network, a control that does nothing, or what axe-core, a checker of
accessibility, calls serious. With --shots it leaves screenshots.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import served
from watched import Watched

CHROMIUM = ["chromium", "chromium-browser", "google-chrome"]
# Without a sandbox, as root has none; and no traffic of the browser's own.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
# A run that takes seconds, with all that a report shows.
TINY = (
    "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 100 --builtin-images 24 --batch 8 "
    "--save-every 10 --sample-every 10 --sample-images 4 --device cpu --threads 1"
).split()
# The name of a run that would be markup.
PLANTED = "<b id=planted onclick='x'>&amp;"


def run(program, *arguments, cwd):
    done = subprocess.run([program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"ddpm {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done


def check_report(path, browser, axe, shots, *, several):
    """One report: whatever is on it works, in light and dark, on a wide screen and a narrow one."""
    name = "report-of-several" if several else "report"
    faults = []
    for scheme, width in [("light", 1200), ("dark", 1200), ("light", 390)]:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        watched = Watched(context, ("file:", "data:"))
        page = watched.page
        page.goto(path.as_uri())
        page.wait_for_selector("main section")
        watched.expect_accessible(context, axe, f"{name}, {scheme}, {width} px")
        watched.expect_to_fit()
        if shots:
            page.screenshot(path=shots / f"{name}-{scheme}-{width}.png", full_page=True)
        if (scheme, width) == ("light", 1200):
            use(watched)
        faults += watched.faults
        context.close()
    return faults


def use(watched):
    page, expect = watched.page, watched.expect
    # The slider.
    slider = page.locator("input[type=range]").first
    picture = page.locator(".grids img").first
    output = page.locator(".slider output").first
    slider.focus()
    before = (picture.get_attribute("src"), output.inner_text())
    page.keyboard.press("ArrowLeft")
    after = (picture.get_attribute("src"), output.inner_text())
    expect(before[0] != after[0] and before[1] != after[1], f"the slider does not move: {before[1]}, {after[1]}")
    shown = page.wait_for_function("() => document.querySelector('.grids img').naturalWidth > 0")
    expect(shown, "the grid is not an image")
    expect(output.inner_text().startswith("step "), f"the slider says {output.inner_text()}")
    # A chart: cursor by pointer and keys, and the logarithmic scale.
    chart = page.locator("figure.chart").first
    drawing, readout = chart.locator("svg"), chart.locator(".readout")
    idle = readout.inner_text()
    drawing.hover()
    by_pointer = readout.inner_text()
    expect(by_pointer != idle and "step " in by_pointer, f"the pointer shows {by_pointer!r}")
    drawing.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect("step 2" in readout.inner_text(), f"arrow keys show {readout.inner_text()!r}")
    line = lambda: chart.locator("polyline").first.get_attribute("points")
    points = line()
    chart.locator("input[type=checkbox]").click()
    expect(line() != points, "the logarithmic scale changes nothing")
    page.locator("input[name=axis][value=images]").check()
    page.locator("figure.chart svg").first.hover()
    readout = page.locator("figure.chart .readout").first.inner_text()
    expect("image" in readout, f"against images it shows {readout!r}")
    # Links to sections, and print.
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        expect(page.locator(target).count() == 1, f"{target} leads nowhere")
    page.emulate_media(media="print")
    expect(not page.locator(".controls").first.is_visible(), "controls are printed")
    page.emulate_media(media="screen")


def check_without_script(path, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    text = page.locator("body").inner_text()
    context.close()
    return [] if "JavaScript" in text else [f"without JavaScript it says {text!r}"]


def check_hostile(path, browser):
    """A name that is markup stays a name."""
    context = browser.new_context()
    watched = Watched(context, ("file:", "data:"))
    watched.page.goto(path.as_uri())
    watched.page.wait_for_selector("main section")
    watched.expect(watched.page.locator("#planted").count() == 0, "markup in a name became markup")
    watched.expect(PLANTED in watched.page.locator("h1").inner_text(), "the name is not shown as it is")
    context.close()
    return watched.faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=Path("target/release/ddpm"))
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        print("skipped: there is no Chromium here; on Debian: apt install chromium")
        return
    # Only where there is a browser: they take a second to import.
    import axe_playwright_python
    from playwright.sync_api import sync_playwright

    program = options.program.resolve()
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    faults = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = Path(folder)
        evaluated = ["--hold-out", "8", "--evaluate-every", "10"]
        run(program, "train", *TINY, *evaluated, "--run", "runs/one", "--steps", "40", cwd=folder)
        run(program, "train", *TINY, "--run", "runs/two", "--steps", "20", "--lr", "0.0005", cwd=folder)
        run(program, "report", "runs/one", "runs/two", "-o", "both.html", cwd=folder)
        hostile = folder / "runs" / PLANTED
        shutil.copytree(folder / "runs/two", hostile)
        (hostile / "skipped.tsv").write_text("</script><b id=planted>.png\t<img src=x id=planted>\n")
        run(program, "report", hostile, "-o", "hostile.html", cwd=folder)
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
        faults += check_report(folder / "runs/one/report.html", browser, axe, options.shots, several=False)
        faults += check_report(folder / "both.html", browser, axe, options.shots, several=True)
        faults += check_without_script(folder / "both.html", browser)
        faults += check_hostile(folder / "hostile.html", browser)
        faults += served.check(program, "runs/one", folder, browser, axe, options.shots)
        browser.close()
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        sys.exit(1)
    print("reports and page work in Chromium: no error, nothing from elsewhere, nothing serious found by axe-core")


if __name__ == "__main__":
    main()
