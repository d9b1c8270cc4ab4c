//! Who may ask: the token, the names that the server goes by, and where a request comes from.
//!
//! A page of another site can make a browser send requests here, and can have a name of its own resolve to this machine
//! (DNS rebinding). So the `Host` of a request must be a name that nobody else can own, what changes something must come
//! from a page of this server, and all but the first request needs a cookie that no other site gets sent along.

use std::net::IpAddr;

use anyhow::{Context, Result};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};

use super::refusal::Refusal;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 16;

/// What a request must show.
#[derive(Debug)]
pub(super) struct Access {
    token: String,
    /// What the cookie holds: not the token, so that a browser's store does not open another browser.
    session: String,
    port: u16,
    hosts: Hosts,
}

/// The names that the server goes by.
#[derive(Debug)]
enum Hosts {
    /// 127.0.0.1, localhost and [::1].
    Loopback,
    /// These, any address, and the name of this machine: nobody can have them resolve to another place.
    Addresses { machine: String },
}

impl Access {
    /// A new token, for a server at this address.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn new(address: IpAddr, port: u16) -> Result<Access> {
        let machine = || {
            let uname = rustix::system::uname();
            uname.nodename().to_string_lossy().to_lowercase()
        };
        Ok(Access {
            token: random()?,
            session: random()?,
            port,
            hosts: match address.is_loopback() {
                true => Hosts::Loopback,
                false => Hosts::Addresses { machine: machine() },
            },
        })
    }

    /// The token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// The cookie of a browser that has shown the token.
    pub(super) fn cookie(&self) -> String {
        format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/",
            self.cookie_name(),
            self.session
        )
    }

    /// Cookies do not know ports: servers beside each other need names of their own.
    fn cookie_name(&self) -> String {
        format!("ddpm-{}", self.port)
    }

    /// True for the token.
    pub(super) fn is_token(&self, given: &str) -> bool {
        same(given, &self.token)
    }

    /// Refuses a request that was sent to another name than this server's.
    ///
    /// # Errors
    /// No `Host`, several, or another.
    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        match (host, hosts.next()) {
            (Some(host), None) if self.is_ours(host) => Ok(()),
            _ => Err(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this server answers to its own address only: open the one that `ddpm serve` printed",
            )),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.parse() == Ok(self.port) => name,
            // A browser leaves out the usual port.
            _ if self.port == 80 => host,
            _ => return false,
        };
        let name = name.to_ascii_lowercase();
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let address: Option<IpAddr> = match address {
            Some(v6) => v6.parse().ok().filter(IpAddr::is_ipv6),
            None => name.parse().ok().filter(IpAddr::is_ipv4),
        };
        match (&self.hosts, address) {
            (Hosts::Loopback, Some(address)) => address.is_loopback(),
            (Hosts::Addresses { .. }, Some(_)) => true,
            (_, None) if name == "localhost" => true,
            (Hosts::Loopback, None) => false,
            (Hosts::Addresses { machine }, None) => name == *machine,
        }
    }

    /// Refuses a request that a page of another site sent, or might have sent: one that changes something must say where
    /// it comes from, or show the token itself, which no page can have a browser do.
    ///
    /// # Errors
    /// Another origin; none, for a request that changes something.
    pub(super) fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let refused = || {
            let said = "this request comes from a page of another site, or does not say from which";
            Err(Refusal::new(StatusCode::FORBIDDEN, said))
        };
        if let Some(site) = headers.get("sec-fetch-site")
            && site != "same-origin"
            && site != "none"
        {
            return refused();
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match headers.get(ORIGIN) {
            None if reads || self.shows_token(headers) => Ok(()),
            None => refused(),
            Some(origin) => {
                let host = headers.get(HOST).map_or(&b""[..], |host| host.as_bytes());
                match origin.as_bytes().strip_prefix(b"http://") {
                    Some(of) if of.eq_ignore_ascii_case(host) => Ok(()),
                    _ => refused(),
                }
            }
        }
    }

    /// Refuses a request that shows neither the cookie nor the token.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check_known(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.shows_token(headers) || self.shows_cookie(headers) {
            true => Ok(()),
            false => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this page needs its token: open the address that `ddpm serve` printed, with ?token= and all",
            )),
        }
    }

    fn shows_token(&self, headers: &HeaderMap) -> bool {
        let header = headers.get(AUTHORIZATION);
        let header = header.and_then(|header| header.to_str().ok());
        header
            .and_then(|header| header.strip_prefix("Bearer "))
            .is_some_and(|given| self.is_token(given))
    }

    fn shows_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let headers = headers.get_all(COOKIE).iter();
        let cookies = headers.filter_map(|header| header.to_str().ok());
        let mut cookies = cookies.flat_map(|header| header.split(';'));
        cookies.any(|cookie| match cookie.trim().split_once('=') {
            Some((of, value)) => of == name && same(value, &self.session),
            None => false,
        })
    }
}

/// Random hex digits from the system.
fn random() -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).context("the system has no random numbers for a token")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// True for equal texts, in a time that does not tell where they differ: hashes compare in constant time.
fn same(given: &str, wanted: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn access(address: impl Into<IpAddr>) -> Access {
        Access::new(address.into(), 7788).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        };
        // As `append` does: a name may come twice.
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn hosts_that_others_can_own_are_refused() {
        let here = access(Ipv4Addr::LOCALHOST);
        let everywhere = access(Ipv4Addr::UNSPECIFIED);
        let both = |host: &str| {
            let headers = headers(&[("host", host)]);
            [&here, &everywhere].map(|access| access.check_host(&headers).is_ok())
        };
        for host in [
            "127.0.0.1:7788",
            "localhost:7788",
            "LOCALHOST:7788",
            "[::1]:7788",
        ] {
            assert_eq!(both(host), [true, true], "{host}");
        }
        for host in ["192.168.3.4:7788", "[fe80::1]:7788"] {
            assert_eq!(both(host), [false, true], "{host}");
        }
        for host in [
            "evil.example:7788",
            "127.0.0.1",
            "127.0.0.1:7789",
            "127.0.0.1.evil.example:7788",
            "localhost.evil.example:7788",
            "::1:7788",
            "[127.0.0.1]:7788",
            "",
            ":7788",
            "localhost:7788, evil.example",
        ] {
            assert_eq!(both(host), [false, false], "{host}");
        }
        let twice = headers(&[("host", "localhost:7788"), ("host", "localhost:7788")]);
        assert!(here.check_host(&twice).is_err() && here.check_host(&HeaderMap::new()).is_err());
        let machine = rustix::system::uname();
        let machine = format!("{}:7788", machine.nodename().to_string_lossy());
        assert!(both(&machine)[1]);
        assert!(
            access(Ipv6Addr::LOCALHOST)
                .check_host(&headers(&[("host", "[::1]:7788")]))
                .is_ok()
        );
    }

    #[test]
    fn what_changes_something_says_where_it_comes_from() {
        let access = access(Ipv4Addr::LOCALHOST);
        let bearer = format!("Bearer {}", access.token());
        let checked = |method: Method, more: &[(&'static str, &str)]| {
            let headers = headers(&[&[("host", "localhost:7788")], more].concat());
            access.check_origin(&method, &headers).is_ok()
        };
        let ours = ("origin", "http://localhost:7788");
        assert!(checked(Method::GET, &[]));
        assert!(checked(Method::POST, &[ours]));
        assert!(checked(
            Method::POST,
            &[ours, ("sec-fetch-site", "same-origin")]
        ));
        assert!(checked(Method::POST, &[("authorization", &bearer)]));
        for others in [
            "http://evil.example",
            "null",
            "https://localhost:7788",
            "http://localhost:7789",
            "http://127.0.0.1:7788",
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                assert!(!checked(method, &[("origin", others)]), "{others}");
            }
        }
        assert!(!checked(Method::POST, &[]) && !checked(Method::PUT, &[]));
        assert!(!checked(Method::GET, &[("sec-fetch-site", "cross-site")]));
        assert!(!checked(Method::GET, &[("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn a_cookie_or_the_token_opens() {
        let (access, other) = (access(Ipv4Addr::LOCALHOST), access(Ipv4Addr::LOCALHOST));
        let known = |name: &'static str, value: &str| {
            access.check_known(&headers(&[(name, value)])).is_ok()
        };
        let pair = |access: &Access| access.cookie().split(';').next().unwrap().to_owned();
        assert!(known("cookie", &pair(&access)));
        assert!(known("cookie", &format!("a=b; {} ;c", pair(&access))));
        assert!(known(
            "authorization",
            &format!("Bearer {}", access.token())
        ));
        assert!(!known("cookie", &pair(&other)));
        assert!(!known("cookie", &format!("ddpm-7788={}", access.token())));
        assert!(!known(
            "authorization",
            &format!("Bearer {}", other.token())
        ));
        assert!(!known("authorization", access.token()));
        assert!(access.check_known(&HeaderMap::new()).is_err());
        assert_eq!(access.token().len(), 32);
        assert_ne!(access.token(), other.token());
    }
}
