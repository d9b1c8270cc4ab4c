//! What others send changes nothing.

use std::io::Write;

use super::client::{Answer, Server, pixels, png, small, with_classes};

const WISH: &str =
    r#"{"network": 0, "sampler": "ddim", "steps": 3, "seed": 1, "number": 2, "task": "sample"}"#;

#[test]
fn nothing_is_answered_without_the_token() {
    let small = small();
    let server = Server::start(&[&small]);
    let paths = [
        "/",
        "/assets/app.js",
        "/api/networks",
        "/api/runs",
        "/api/events",
        "/api/jobs",
        "/api/jobs/0/figure.png",
        "/api/uploads/0/for/0",
        "/nowhere",
    ];
    let wrong = format!("ddpm-{}={}", server.address.port(), server.token);
    for path in paths {
        for headers in [
            &[][..],
            &[("Cookie", wrong.as_str())],
            &[("Authorization", "Bearer 0")],
        ] {
            let answer = server.ask(&format!("GET {path}"), headers, b"");
            assert_eq!(answer.status, 401, "{path} {headers:?}");
            assert!(answer.text().contains("token"), "{}", answer.text());
        }
    }
    for token in [
        "",
        "0",
        &"0".repeat(32),
        &server.token[1..],
        &server.token.to_uppercase().replace('A', "B"),
    ] {
        let answer = server.ask(&format!("GET /?token={token}"), &[], b"");
        assert!(
            answer.status == 401 && answer.header("set-cookie").is_none(),
            "{token}"
        );
    }
    // The token is for the front page alone.
    let elsewhere = server.ask(&format!("GET /api/jobs?token={}", server.token), &[], b"");
    assert_eq!(elsewhere.status, 401);
    let welcome = server.ask(&format!("GET /?token={}", server.token), &[], b"");
    let cookie = welcome.header("set-cookie").unwrap();
    assert!(
        cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains(&server.token),
        "{cookie}"
    );
    let bearer = format!("Bearer {}", server.token);
    let by_header = server.ask(
        "POST /api/jobs",
        &[("Authorization", &bearer)],
        WISH.as_bytes(),
    );
    assert_eq!(by_header.status, 201);
}

#[test]
fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
    let small = small();
    let server = Server::start(&[&small]);
    let page = server.by_page("GET /", b"");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let mut texts = vec![page.text()];
    let mut names = vec![];
    // Links lead to all files, of the page and of its scripts.
    while let Some(text) = texts.pop() {
        assert!(
            !text.contains("https://") && !text.contains("//cdn"),
            "{text}"
        );
        let quoted: Vec<&str> = text.split('"').filter(|part| !part.contains(' ')).collect();
        for part in quoted {
            let name = part
                .strip_prefix("/assets/")
                .or_else(|| part.strip_prefix("./"));
            if let Some(name) = name.filter(|name| !names.contains(&(*name).to_owned())) {
                let file = server.by_page(&format!("GET /assets/{name}"), b"");
                assert_eq!(file.status, 200, "{name}");
                names.push(name.to_owned());
                texts.push(file.text());
            }
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "app.css", "app.js", "form.js", "icon.svg", "image.js", "jobs.js", "page.js",
            "watch.js"
        ]
    );
}

#[test]
fn other_names_and_other_sites_are_refused() {
    let small = small();
    let server = Server::start(&[&small]);
    let (cookie, port) = (("Cookie", server.cookie()), server.address.port());
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1",
        "localhost@evil.example",
        "",
    ] {
        for line in ["GET /", "GET /api/jobs", "POST /api/jobs"] {
            let answer = server.ask(line, &[("Host", host), cookie], WISH.as_bytes());
            assert_eq!(answer.status, 421, "{host:?} {line}");
        }
        // Not even with the token.
        let answer = server.ask(
            &format!("GET /?token={}", server.token),
            &[("Host", host)],
            b"",
        );
        assert!(
            answer.status == 421 && answer.header("set-cookie").is_none(),
            "{host:?}"
        );
    }
    let localhost = format!("localhost:{port}");
    assert_eq!(
        server
            .ask("GET /", &[("Host", &localhost), cookie], b"")
            .status,
        200
    );
    let ours = format!("http://{}", server.address);
    for origin in [
        "http://evil.example",
        "null",
        "",
        &format!("https://{}", server.address),
        &format!("http://localhost:{port}"),
    ] {
        for line in [
            "POST /api/jobs",
            "POST /api/uploads",
            "POST /api/jobs/0/cancel",
            "GET /api/events",
        ] {
            let answer = server.ask(line, &[cookie, ("Origin", origin)], WISH.as_bytes());
            assert_eq!(answer.status, 403, "{origin:?} {line}");
        }
    }
    // A form of another site that says nothing of its origin.
    assert_eq!(
        server
            .ask("POST /api/jobs", &[cookie], WISH.as_bytes())
            .status,
        403
    );
    let cross = [
        cookie,
        ("Origin", ours.as_str()),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    assert_eq!(
        server.ask("POST /api/jobs", &cross, WISH.as_bytes()).status,
        403
    );
    assert!(server.jobs().is_empty());
}

#[test]
fn large_requests_are_refused() {
    let small = small();
    let server = Server::start(&[&small]);
    let long = vec![b' '; 20 << 10];
    assert_eq!(server.by_page("POST /api/jobs", &long).status, 413);
    let large = vec![0; (8 << 20) + 1];
    assert_eq!(server.by_page("POST /api/uploads", &large).status, 413);
    let header = "x".repeat(70 << 10);
    let answer = server.ask("GET /", &[("X", &header)], b"");
    assert!([400, 431].contains(&answer.status), "{}", answer.status);
    let many: Vec<(&str, &str)> = vec![("X", "y"); 100];
    let answer = server.ask("GET /", &many, b"");
    assert!([400, 431].contains(&answer.status), "{}", answer.status);
    assert!(server.jobs().is_empty());
    server.make(WISH);
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most))
            .map(|_| self.below(256) as u8)
            .collect()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// A request that is wrong in one way or another, and whether the server may do as it says.
fn bad(numbers: &mut Numbers, server: &Server, image: &[u8]) -> Vec<u8> {
    let page = |line: &str, body: &[u8]| {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nContent-Length: {2}\r\nConnection: close\r\n\r\n",
            server.address,
            server.cookie(),
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let paths = [
        "/../../etc/passwd",
        "/assets/../../../../etc/passwd",
        "/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/assets/..",
        "//",
        "/api/jobs/-1/figure.png",
        "/api/jobs/99999999999999999999/figure.png",
        "/api/jobs/0/images/-1",
        "/api/uploads/x/for/0",
        "/api/uploads/0/for/4294967296",
        "/api/uploads/0/for/99",
        "/%00",
        "/api/jobs/0%2f..%2f",
        "*",
        "http://evil.example/",
        "/api/networks/../../../etc/passwd",
        "/assets/app.js%00.html",
    ];
    let methods = [
        "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "HEAD", "FROB", "get", "",
    ];
    match numbers.below(7) {
        0 => numbers.bytes(400),
        1 => page(
            &format!("{} {}", numbers.one(&methods), numbers.one(&paths)),
            b"",
        ),
        2 => page(
            &format!("POST {}", numbers.one(&paths)),
            &numbers.bytes(200),
        ),
        3 => {
            // JSON with something else in the place of something.
            let from = numbers.one(&[
                "0",
                "\"ddim\"",
                "3",
                "1",
                "2",
                "\"sample\"",
                "{",
                "}",
                ":",
                "network",
                "seed",
            ]);
            let to = numbers.one(&[
                "-1",
                "1e400",
                "null",
                "[]",
                "{}",
                "\"\u{0}\"",
                "\"../../etc\"",
                "99999999999999999999",
                "",
                "{\"vary\": {}}",
                "NaN",
            ]);
            let wish = WISH.replacen(from, to, 1);
            // One that happens to be right is no bad request.
            match ddpm::serve::Wish::read(wish.as_bytes()) {
                Ok(_) => page("POST /api/jobs", b"{"),
                Err(_) => page("POST /api/jobs", wish.as_bytes()),
            }
        }
        4 => {
            let mut image = image.to_vec();
            image.truncate(8 + numbers.below(image.len() - 8));
            for _ in 0..numbers.below(4) {
                let place = numbers.below(image.len());
                image[place] = numbers.below(256) as u8;
            }
            page("POST /api/uploads", &image)
        }
        5 => page("POST /api/uploads", &numbers.bytes(300)),
        _ => {
            // Cut off, or of a wrong length.
            let whole = page("POST /api/jobs", WISH.as_bytes());
            let text = String::from_utf8(whole).unwrap();
            let text = text.replace(
                "Content-Length: ",
                numbers.one(&[
                    "Content-Length: -",
                    "Content-Length: 1\r\nContent-Length: ",
                    "Transfer-Encoding: chunked\r\nX: ",
                    "Content-Length: 9999999999999999999",
                ]),
            );
            text.into_bytes()
        }
    }
}

#[test]
fn an_address_with_a_bad_number_is_no_page() {
    let server = Server::start(&[&small()]);
    for line in [
        "GET /runs/x/report",
        "GET /api/jobs/-1/figure.png",
        "POST /api/jobs/1e9/cancel",
    ] {
        let answer = server.by_page(line, b"");
        assert_eq!(answer.status, 404, "{line}");
        assert_eq!(answer.json()["error"], "there is no such page", "{line}");
    }
}

#[test]
fn a_thousand_bad_requests_change_nothing() {
    let (small, classes) = (small(), with_classes());
    let server = Server::start(&[&small, &classes]);
    let before = server.make(WISH);
    let networks = server.by_page("GET /api/networks", b"").text();
    let image = png(8, 8, |x, y| [x as u8 * 30, y as u8 * 30, 7]);
    let mut numbers = Numbers(1);
    for _ in 0..1000 {
        let request = bad(&mut numbers, &server, &image);
        let mut stream = server.connect();
        // The server may have refused and closed.
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = Answer::read(&mut stream);
        // No bad request is carried out, but for a damaged image whose header is whole: that is found when it is used.
        assert!(
            answer.status >= 400
                || [0, 201].contains(&answer.status)
                || request.starts_with(b"HEAD"),
            "{answer:?} to {}",
            String::from_utf8_lossy(&request)
        );
        assert!(
            answer.status < 500 && !answer.text().contains("root:"),
            "{answer:?} to {}",
            String::from_utf8_lossy(&request)
        );
    }
    assert_eq!(server.jobs().len(), 1);
    assert_eq!(server.by_page("GET /api/networks", b"").text(), networks);
    let after = server.make(WISH);
    assert_eq!(pixels(&after), pixels(&before));
}
