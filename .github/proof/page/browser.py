"""How soon a page of a history can be used, and how smooth it stays in a headless Chromium: a table of milliseconds.

    python3 browser.py PAGE LOADS        TOKGATE_CHROMIUM names the browser

`processors` is how long all processes of the browser ran meanwhile: the machine's other work lengthens the rest, not this.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --no-first-run "
    "--remote-debugging-pipe --window-size=1200,900"
)

# A page can be used once its first frame is made and the next task runs.
USABLE = """addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => setTimeout(() => {
  window.usable = performance.now();
})));"""

# The times between frames, until `endFrames` is called.
FRAMES = """(() => {
  const times = [];
  let last = 0, on = true;
  requestAnimationFrame(function frame(now) {
    if (!on) return;
    if (last) times.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  });
  window.endFrames = () => { on = false; return times; };
})()"""


class Browser:
    """A headless Chromium with one tab. It reads requests from descriptor 3 and answers on 4, JSON that ends in a zero."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.answers, theirs_out = os.pipe()
        theirs_in, self.requests = os.pipe()
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        program = os.environ.get("TOKGATE_CHROMIUM", "chromium")
        self.child = subprocess.Popen(
            ["bash", "-c", script, program, *FLAGS.split(), f"--user-data-dir={self.folder.name}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.said, self.session, self.last = b"", None, 0
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=USABLE)

    def ask(self, method, **parameters):
        self.last += 1
        request = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        message = json.dumps(request).encode() + b"\0"
        while message:
            message = message[os.write(self.requests, message):]
        while True:
            while b"\0" not in self.said:
                more = os.read(self.answers, 1 << 16)
                if not more:
                    sys.exit("the browser ended; is TOKGATE_CHROMIUM one?")
                self.said += more
            answer, self.said = self.said.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        while not self.value(expression):
            time.sleep(0.01)

    def mouse(self, kind, **what):
        self.ask("Input.dispatchMouseEvent", type=kind, **what)

    def busy(self):
        """Milliseconds that the browser's processes have run until now."""
        stats = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It has ended.
            stats[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
        ours, known = {self.child.pid}, 0
        while len(ours) > known:
            known = len(ours)
            ours |= {process for process, (parent, _) in stats.items() if parent in ours}
        return sum(stats[process][1] for process in ours if process in stats) * 1000 / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.answers)
        os.close(self.requests)
        self.folder.cleanup()


def load(page):
    """A browser with the page, and how long that took from the start of the navigation; the browser ran before."""
    browser = Browser()
    before = browser.busy()
    browser.ask("Page.navigate", url=page)
    browser.until("window.usable > 0")
    return browser, browser.value("usable"), browser.busy() - before


def write(browser):
    browser.value("document.getElementById('search').focus()")
    for letter in "matmul q8_0 avx2":
        browser.ask("Input.insertText", text=letter)
        time.sleep(0.1)


def scroll(browser):
    for _ in range(100):
        browser.mouse("mouseWheel", x=500, y=500, deltaX=0, deltaY=150)


def hover(browser):
    left, top, width, height = browser.value(
        "(() => { const b = document.querySelector('.chart').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()")
    for at in range(200):
        browser.mouse("mouseMoved", x=left + 80 + (width - 100) * at / 200, y=top + height * (0.3 + 0.3 * (at % 2)))


def row(name, times, busy):
    times = sorted(times)
    most = times[min(len(times) - 1, int(0.95 * len(times)))]
    print(f"| {name} | {len(times)} | {statistics.median(times):.0f} | {times[0]:.0f} | {most:.0f} | {times[-1]:.0f} | {busy:.0f} |", flush=True)


def frames(browser, name, act):
    time.sleep(1)
    browser.value(FRAMES)
    before = browser.busy()
    act(browser)
    row("frames while " + name, browser.value("endFrames()"), browser.busy() - before)


def main():
    page, loads = pathlib.Path(sys.argv[1]).resolve().as_uri(), int(sys.argv[2])
    print("| milliseconds | number | median | least | 95 % | most | processors |\n|---|---:|---:|---:|---:|---:|---:|")
    times, busy = [], []
    for at in range(loads):
        browser, usable, ran = load(page)
        times.append(usable)
        busy.append(ran)
        if at + 1 < loads:
            browser.close()
    row("navigation to use", times, statistics.median(busy))
    frames(browser, "writing into the search", write)
    browser.value("const search = document.getElementById('search'); search.value = ''; void search.dispatchEvent(new Event('input'))")
    frames(browser, "scrolling over all benches", scroll)
    browser.value("void (location.hash = document.querySelector('table.benches a[href*=\"/time/\"]').hash)")
    frames(browser, "hovering over a trend", hover)
    browser.value("void (location.hash = '#/roofline')")
    frames(browser, "hovering over a roofline", hover)
    browser.close()


if __name__ == "__main__":
    main()
