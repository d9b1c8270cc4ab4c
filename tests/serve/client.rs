//! A server of its own for each test, and just enough HTTP to ask it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// What keeps a test from waiting for ever.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn ddpm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command.env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
    command
}

/// A network of 8x8 pixels after some training.
pub(crate) fn small() -> PathBuf {
    crate::common::repo("tests/runs/ddcm/exported.safetensors")
}

/// A run of a network with classes.
pub(crate) fn with_classes() -> PathBuf {
    crate::common::repo("tests/runs/format-3/stopped")
}

pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    cookie: String,
}

impl Server {
    pub(crate) fn start(networks: &[&Path]) -> Server {
        Server::start_with(networks, &[])
    }

    pub(crate) fn start_with(networks: &[&Path], flags: &[&str]) -> Server {
        let mut command = ddpm();
        command.arg("serve").args(networks);
        command.args([
            "--port",
            "0",
            "--device",
            "cpu",
            "--precision",
            "f32",
            "--threads",
            "1",
            // Tests run beside others.
            "--nice",
            "0",
        ]);
        command.args(flags);
        Server::of(command)
    }

    /// The server that a command starts.
    pub(crate) fn of(mut command: Command) -> Server {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let rest = line.trim().strip_prefix("http://").unwrap_or_else(|| {
            let mut said = String::new();
            child
                .stderr
                .as_mut()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("{line:?}: {said}")
        });
        let (address, token) = rest.split_once("/?token=").unwrap();
        let mut server = Server {
            child,
            address: address.parse().unwrap(),
            token: token.to_owned(),
            cookie: String::new(),
        };
        let welcome = server.ask(&format!("GET /?token={token}"), &[], b"");
        assert_eq!(
            (welcome.status, welcome.header("location")),
            (303, Some("/"))
        );
        let cookie = welcome.header("set-cookie").unwrap();
        server.cookie = cookie.split(';').next().unwrap().to_owned();
        server
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A request with these headers and that of the length, and `Host` unless there is one.
    pub(crate) fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !line.starts_with("GET") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        // A server that refuses a long body does not read it.
        let _ = stream.write_all((head + "\r\n").as_bytes());
        let _ = stream.write_all(body);
        Answer::read(&mut stream)
    }

    /// As a page of the server asks.
    pub(crate) fn by_page(&self, line: &str, body: &[u8]) -> Answer {
        let origin = format!("http://{}", self.address);
        let headers = [("Cookie", self.cookie.as_str()), ("Origin", &origin)];
        self.ask(line, &headers, body)
    }

    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

    pub(crate) fn jobs(&self) -> Vec<Value> {
        serde_json::from_slice(&self.by_page("GET /api/jobs", b"").body).unwrap()
    }

    /// Asks for a job; its number.
    pub(crate) fn add(&self, wish: &str) -> u64 {
        let answer = self.by_page("POST /api/jobs", wish.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_u64().unwrap()
    }

    /// The events of the server, line by line.
    pub(crate) fn events(&self) -> Events {
        let mut stream = self.connect();
        let head = format!(
            "GET /api/events HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
            self.address, self.cookie
        );
        stream.write_all(head.as_bytes()).unwrap();
        Events(BufReader::new(stream))
    }

    /// Waits until a job is over; what the list says of it.
    pub(crate) fn finish(&self, id: u64) -> Value {
        let mut events = self.events();
        loop {
            let (name, data) = events.next();
            if name != "jobs" {
                continue;
            }
            let jobs: Vec<Value> = serde_json::from_str(&data).unwrap();
            let job = jobs.into_iter().find(|job| job["id"] == id);
            if let Some(job) = job
                && ["done", "failed", "cancelled"]
                    .iter()
                    .any(|state| job["state"] == *state)
            {
                return job;
            }
        }
    }

    /// Runs a job that works; its figure as PNG.
    pub(crate) fn make(&self, wish: &str) -> Vec<u8> {
        let id = self.add(wish);
        let job = self.finish(id);
        assert_eq!(job["state"], "done", "{job}");
        let answer = self.by_page(&format!("GET /api/jobs/{id}/figure.png"), b"");
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("image/png"))
        );
        answer.body
    }

    pub(crate) fn upload(&self, bytes: &[u8]) -> Value {
        let answer = self.by_page("POST /api/uploads", bytes);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A refused body that is still being sent can reset the connection after the answer.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.unwrap_or(0),
            head,
            body: bytes.get(end + 4..).unwrap_or_default().to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        lines
            .find(|(of, _)| of.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    /// The next event, its name and its data. Lines between the parts of the body tell their lengths, and begin with
    /// neither word.
    pub(crate) fn next(&mut self) -> (String, String) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(
                self.0.read_line(&mut line).unwrap(),
                0,
                "the events have ended"
            );
            if let Some(of) = line.strip_prefix("event: ") {
                name = of.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, data.trim().to_owned());
            }
        }
    }
}

/// An image file's size and pixels.
pub(crate) fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let image = image::load_from_memory(png).unwrap().into_rgb8();
    (image.width(), image.height(), image.into_raw())
}

/// A PNG of these pixels.
pub(crate) fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
