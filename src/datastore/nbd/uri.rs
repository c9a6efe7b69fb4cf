//! NBD addresses: `nbd://host[:port]/export` and `nbd+unix:///export?socket=PATH`, with `nbds` for TLS (uri.md of the NetworkBlockDevice project), and
//! the templates of the configuration, in which `{datastore}`, `{directory}`, `{descriptor}`, `{extent}`, `{disk}` and `{vm}` stand for a
//! disk's own.

use std::path::PathBuf;

/// The port of NBD.
const PORT: u16 = 10809;

/// Where an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// The server.
    pub server: Server,
    /// By TLS, or not at all.
    pub tls: bool,
    /// The export's name; empty is the server's default.
    pub export: String,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Host and port.
    Tcp(String, u16),
    /// A socket on this machine.
    Unix(PathBuf),
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        match &self.server {
            Server::Tcp(host, port) if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}/{}", self.export)
            }
            Server::Tcp(host, port) => write!(f, "{scheme}://{host}:{port}/{}", self.export),
            Server::Unix(path) => write!(f, "{scheme}+unix:///{}?socket={}", self.export, path.display()),
        }
    }
}

impl Uri {
    /// Reads an address; what is wrong with it is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("'{text}': {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("an NBD address begins with nbd://, nbd+unix://, nbds:// or nbds+unix://");
        };
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = before.split_once('/').unwrap_or((before, ""));
        let Some(export) = decoded(export) else {
            return wrong("a % that no two digits follow, or no UTF-8");
        };
        if export.len() > super::wire::NAME_BYTES_MAX {
            return wrong("the export's name is over 4096 bytes");
        }
        let server = match scheme {
            "nbd" | "nbds" if query.is_empty() => match host_and_port(authority) {
                Some((host, port)) => Server::Tcp(host, port),
                None => return wrong("a host and perhaps a port are expected behind nbd:// or nbds://"),
            },
            "nbd+unix" | "nbds+unix" if authority.is_empty() => {
                let socket = query.strip_prefix("socket=").and_then(decoded);
                match socket.filter(|path| path.starts_with('/')) {
                    Some(path) => Server::Unix(path.into()),
                    None => return wrong("?socket= with an absolute path is expected"),
                }
            }
            _ => {
                return wrong(
                    "nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH is expected, with nbds for TLS",
                );
            }
        };
        Ok(Self { server, tls: scheme.starts_with("nbds"), export })
    }
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty() && !host.contains(['@', '[', ']'])).then(|| (host.to_owned(), port))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// What stands for the placeholders of a template.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Name of the datastore.
    pub datastore: &'a str,
    /// The disk's directory.
    pub directory: &'a str,
    /// Its extent, `x-flat.vmdk`.
    pub extent: &'a str,
    /// Its descriptor, `x.vmdk`.
    pub descriptor: &'a str,
    /// The virtual machine that it is of, by the inventory's id; `None` where that is not known.
    pub machine: Option<&'a str>,
}

/// A template with a disk's place filled in, each value so encoded that it stays within its part of the address.
pub fn fill(template: &str, place: Place<'_>) -> Result<String, String> {
    let disk = place.extent.strip_suffix(".vmdk").unwrap_or(place.extent);
    let disk = disk.strip_suffix("-flat").unwrap_or(disk);
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let unknown = || {
            format!(
                "'{template}': '{{' must begin one of {{datastore}}, {{directory}}, {{descriptor}}, {{extent}}, {{disk}}, {{vm}}"
            )
        };
        let (name, after) = after.split_once('}').ok_or_else(unknown)?;
        filled.push_str(before);
        filled.push_str(&encoded(match name {
            "datastore" => place.datastore,
            "directory" => place.directory,
            "descriptor" => place.descriptor,
            "extent" => place.extent,
            "disk" => disk,
            "vm" => place.machine.ok_or_else(|| {
                format!("'{template}': {{vm}} is known of disks that a virtual machine has")
            })?,
            _ => return Err(unknown()),
        }));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port, export: &str| Uri {
            server: Server::Tcp(host.into(), port),
            tls: false,
            export: export.into(),
        };
        assert_eq!(Uri::parse("nbd://h").unwrap(), tcp("h", 10809, ""));
        assert_eq!(Uri::parse("nbd://h:1/a%20b/c").unwrap(), tcp("h", 1, "a b/c"));
        assert_eq!(Uri::parse("nbd://[::1]:7/").unwrap(), tcp("::1", 7, ""));
        let unix = Uri::parse("nbd+unix:///x?socket=/run/a%2Fb").unwrap();
        let same = Uri { server: Server::Unix("/run/a/b".into()), tls: false, export: "x".into() };
        assert_eq!(unix, same);
        for (text, plain) in
            [("nbds://h:1/x", "nbd://h:1/x"), ("nbds+unix:///x?socket=/a", "nbd+unix:///x?socket=/a")]
        {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(Uri { tls: false, ..uri }, Uri::parse(plain).unwrap());
        }
        for bad in [
            "",
            "h:1",
            "http://h",
            "nbd://",
            "nbd://:1",
            "nbd://h:x",
            "nbd://u@h",
            "nbd://h/%",
            "nbd://h/%+1",
            "nbd://h/%ff",
            "nbd://h/%00",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=rel",
            "nbd+unix://h/x?socket=/a",
            "nbds://",
            "nbds://h?x",
            "nbdss://h",
            "nbds+unix:///x",
            "nbd://[::1",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn placeholders() {
        let place = Place {
            datastore: "ds 1",
            directory: "a/b?socket=/etc",
            extent: "web_1-flat.vmdk",
            descriptor: "web 1.vmdk",
            machine: None,
        };
        let filled = fill("nbd://h/{datastore}/{directory}/{extent}:{disk}", place).unwrap();
        assert_eq!(filled, "nbd://h/ds%201/a%2Fb%3Fsocket%3D%2Fetc/web_1-flat.vmdk:web_1");
        assert_eq!(Uri::parse(&filled).unwrap().export, "ds 1/a/b?socket=/etc/web_1-flat.vmdk:web_1");
        assert!(fill("nbd://h/{x}", place).is_err() && fill("nbd://h/{extent", place).is_err());
        assert!(
            fill("nbd://h/{vm}/{descriptor}", place).unwrap_err().contains("{vm} is known of disks that")
        );
        let place = Place { machine: Some("vm-7"), ..place };
        assert_eq!(fill("nbd://h/{vm}/{descriptor}", place).unwrap(), "nbd://h/vm-7/web%201.vmdk");
    }

    proptest! {
        #[test]
        fn any_value_stays_in_its_part(directory in "\\PC{0,40}", extent in "\\PC{1,20}") {
            let place =
                Place { datastore: "d", directory: &directory, extent: &extent, descriptor: "", machine: None };
            let uri = Uri::parse(&fill("nbd+unix:///{directory}?socket=/run/{extent}.sock", place).unwrap()).unwrap();
            prop_assert_eq!(uri.export, directory);
            prop_assert_eq!(uri.server, Server::Unix(format!("/run/{extent}.sock").into()));
        }

        #[test]
        fn nothing_panics(text in "(nbds?(\\+unix)?://)?[\\PC%?/\\[\\]:]{0,40}") {
            let _ = Uri::parse(&text);
        }
    }
}
