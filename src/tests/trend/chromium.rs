//! A headless Chromium, told what to do over its debugging pipe: it reads requests from descriptor 3 and answers on 4, as
//! JSON that ends in a zero byte. A shell puts our pipes there, so that no port is opened and no crate is needed.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Chromium {
    url: String,
    child: Child,
    requests: ChildStdin,
    answers: Receiver<Value>,
    /// What the page did meanwhile.
    events: Vec<Value>,
    session: Option<String>,
    last: u64,
    _profile: TempDir,
}

/// The browser's program: `TOKGATE_CHROMIUM`, or what the system has.
fn program() -> Option<PathBuf> {
    if let Some(path) = env::var_os("TOKGATE_CHROMIUM") {
        return Some(path.into());
    }
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let places = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|path| path.is_file())
}

impl Chromium {
    /// A file in a browser; `None`, and it is said that the test is skipped, where there is no browser.
    pub fn open(file: &Path) -> Option<Self> {
        let Some(program) = program() else {
            println!("skipped: no chromium here; install one, or name it in TOKGATE_CHROMIUM");
            return None;
        };
        let mut browser = Self::start(&program);
        browser.url = format!("file://{}", file.display());
        browser.ask("Page.navigate", json!({"url": browser.url}));
        browser.until("document.querySelector('main')?.children.length > 0");
        Some(browser)
    }

    /// Starts the browser with one empty tab.
    fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let script = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .args([
                "--headless=new",
                // The page is our own, and a container has no user namespaces for a sandbox.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--remote-debugging-pipe",
                "--window-size=1200,900",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let (send, answers) = channel();
        thread::spawn(move || {
            for message in said.split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).unwrap();
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            url: String::new(),
            child,
            requests,
            answers,
            events: Vec::new(),
            session: None,
            last: 0,
            _profile: profile,
        };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.ask("Target.attachToTarget", target);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut request = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        write!(self.requests, "{request}\0").unwrap();
        self.requests.flush().unwrap();
        loop {
            let message = self.answers.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            if message["id"].is_null() {
                self.events.push(message);
            }
        }
    }

    /// The value of a JavaScript expression.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", parameters);
        let trouble = &answer["exceptionDetails"];
        assert!(trouble.is_null(), "{expression}: {trouble}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression holds.
    pub fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.value(expression) != json!(true) {
            assert!(begun.elapsed() < PATIENCE, "never came true: {expression}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key});
            if key.chars().count() == 1 && kind == "keyDown" {
                event["text"] = json!(key);
            }
            self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// Clicks the middle of the first element that matches.
    pub fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Moves the mouse.
    pub fn hover(&mut self, x: f64, y: f64) {
        let event = json!({"type": "mouseMoved", "x": x, "y": y});
        self.ask("Input.dispatchMouseEvent", event);
    }

    /// Touches a place with a finger, and lifts it.
    pub fn tap(&mut self, x: f64, y: f64) {
        for (kind, points) in [
            ("touchStart", json!([{"x": x, "y": y}])),
            ("touchEnd", json!([])),
        ] {
            let event = json!({"type": kind, "touchPoints": points});
            self.ask("Input.dispatchTouchEvent", event);
        }
    }

    /// Touches the middle of the first element that matches.
    pub fn tap_on(&mut self, selector: &str) {
        let [left, top, right, bottom] = self.place(selector);
        self.tap((left + right) / 2.0, (top + bottom) / 2.0);
    }

    /// Makes the screen one of a phone, with a finger instead of a mouse.
    pub fn become_phone(&mut self) {
        let screen = json!({"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": true});
        self.ask("Emulation.setDeviceMetricsOverride", screen);
        self.ask(
            "Emulation.setTouchEmulationEnabled",
            json!({"enabled": true}),
        );
        self.until("innerWidth === 390");
    }

    /// Goes to a view of the page.
    pub fn visit(&mut self, route: &str) {
        self.value(&format!("void (location.hash = {route:?})"));
    }

    /// Left, top, right and bottom of an element on the screen.
    pub fn place(&mut self, selector: &str) -> [f64; 4] {
        let place = self.value(&format!(
            "(() => {{ const b = document.querySelector({selector:?}).getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; }})()"
        ));
        serde_json::from_value(place).unwrap()
    }

    /// How many pixels of the trend have the colour of its line, between two places across and down to a share of its height.
    pub fn ink(&mut self, from: f64, to: f64, share: f64) -> u64 {
        // A copy, because Chromium warns of reading twice from a canvas that is made to be looked at.
        let ink = self.value(&format!(
            "(() => {{ const c = document.querySelector('.chart canvas'); const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', {{willReadFrequently: true}}); copy.drawImage(c, 0, 0); const pixels = copy.getImageData({from}, 0, {to} - {from}, c.height * {share}).data; let ink = 0; for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] > 100 && pixels[at + 2] > pixels[at] + 100) ink++; return ink; }})()"
        ));
        ink.as_u64().unwrap()
    }

    /// Nothing was fetched but the file, nothing was said on the console, nothing was thrown.
    pub fn was_silent(&mut self) {
        for event in &self.events {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    let loaded = parameters["request"]["url"].as_str().unwrap();
                    let own = loaded.starts_with(&self.url) || loaded.starts_with("data:");
                    assert!(own, "{loaded}");
                }
                "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                    panic!("{parameters}");
                }
                _ => {}
            }
        }
        assert_eq!(
            self.value("performance.getEntriesByType('resource').length"),
            0
        );
    }
}

/// Where one of so many commits is across a trend of this width that shows all: `PAD` of `chart.js` is left free.
pub fn column(width: f64, commit: usize, commits: usize) -> f64 {
    74.0 + (width - 74.0 - 14.0) * commit as f64 / (commits - 1) as f64
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
