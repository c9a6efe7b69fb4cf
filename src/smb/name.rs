//! Names that clients send, checked and cut into a [`SharePath`] (MS-SMB2 3.3.5.9, MS-FSCC 2.1.5).
//!
//! Nothing behind the server ever sees a name that did not pass here: no separators, no `.` or `..`, no control
//! characters, no wildcards.

use smb_proto::Status;
use smb_proto::utf16::Utf16;

use super::share::SharePath;

/// Longest path, in UTF-16 units: what Windows accepts (MS-FSCC 2.1.5).
const PATH_MAX: usize = 32_760;
/// Longest component or stream name, in UTF-16 units (MS-FSCC 2.1.5.2).
const COMPONENT_MAX: usize = 255;
/// The only stream type that may be named (MS-FSCC 2.1.5.4).
const DATA_TYPE: &str = "$DATA";

/// A CREATE's name. A leading backslash is refused with INVALID_PARAMETER (3.3.5.9); names within the share are relative.
pub fn parse(name: Utf16<'_>) -> Result<SharePath, Status> {
    let name = name.decode().map_err(|_| Status::OBJECT_NAME_INVALID)?;
    if name.starts_with('\\') {
        return Err(Status::INVALID_PARAMETER);
    }
    components(&name)
}

/// The name of a rename's or link's target (MS-FSCC 2.4.42): here a leading backslash means the share's root, as clients
/// of every kind send it.
pub fn parse_target(name: Utf16<'_>) -> Result<SharePath, Status> {
    let name = name.decode().map_err(|_| Status::OBJECT_NAME_INVALID)?;
    let path = components(name.strip_prefix('\\').unwrap_or(&name))?;
    if path.components.is_empty() && path.stream.is_none() {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    Ok(path)
}

/// How logs and FileNameInformation show a path: without a leading backslash.
pub fn display(path: &SharePath) -> String {
    let mut text = path.components.join("\\");
    if let Some(stream) = path.stream.as_ref().filter(|stream| !stream.is_empty()) {
        text.push(':');
        text.push_str(stream);
    }
    text
}

fn components(name: &str) -> Result<SharePath, Status> {
    if name.is_empty() {
        return Ok(SharePath::default());
    }
    if name.encode_utf16().count() > PATH_MAX {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    // Some clients name a directory with a backslash behind it.
    let name = name.strip_suffix('\\').unwrap_or(name);
    let mut path = SharePath::default();
    let mut parts = name.split('\\').peekable();
    while let Some(part) = parts.next() {
        let file = match part.split_once(':') {
            None => part,
            Some((file, stream)) if parts.peek().is_none() => {
                path.stream = Some(stream_name(stream)?);
                file
            }
            Some(_) => return Err(Status::OBJECT_NAME_INVALID),
        };
        // `:stream` alone is a stream of the share's root.
        if file.is_empty() && path.components.is_empty() && part.starts_with(':') {
            continue;
        }
        // The name space is the server's: `..` goes back by one name, and never above the share's root.
        if file == ".." {
            path.components.pop().ok_or(Status::OBJECT_PATH_SYNTAX_BAD)?;
            continue;
        }
        // Two backslashes are one, as for Windows and Samba.
        if part.is_empty() && !path.components.is_empty() {
            continue;
        }
        component(file)?;
        path.components.push(file.to_owned());
    }
    Ok(path)
}

fn component(text: &str) -> Result<(), Status> {
    match text {
        "" => Err(Status::OBJECT_NAME_INVALID),
        "." => Err(Status::OBJECT_PATH_SYNTAX_BAD),
        _ if text.encode_utf16().count() > COMPONENT_MAX => Err(Status::OBJECT_NAME_INVALID),
        _ if text.chars().any(is_illegal) => Err(Status::OBJECT_NAME_INVALID),
        _ => Ok(()),
    }
}

/// Characters that no file's name has (MS-FSCC 2.1.5.2). The separators are cut off before this.
fn is_illegal(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '"' | '*' | '/' | ':' | '<' | '>' | '?' | '|' | '\\')
}

/// Whether a name has the 8.3 form (MS-FSCC 2.1.5.2.1), in either case.
pub fn is_short(text: &str) -> bool {
    let (base, extension) = text.split_once('.').unwrap_or((text, ""));
    let fits = |part: &str, most: usize| {
        part.len() <= most
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'()-@^_`{}~".contains(&b))
    };
    let dotted = text.contains('.');
    !base.is_empty() && fits(base, 8) && fits(extension, 3) && dotted != extension.is_empty()
}

/// What follows the first colon: `name`, `name:$DATA` or `:$DATA`, which is the unnamed stream, a file's data.
fn stream_name(text: &str) -> Result<String, Status> {
    let (name, kind) = match text.split_once(':') {
        Some((name, kind)) => (name, Some(kind)),
        None => (text, None),
    };
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case(DATA_TYPE)) || (kind.is_none() && name.is_empty()) {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    // A stream's name may hold what a file's may not, but for separators and NUL (MS-FSCC 2.1.5.3).
    if name.contains(['\0', '\\', '/', ':']) || name.encode_utf16().count() > COMPONENT_MAX {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use smb_proto::utf16;

    fn of(name: &str) -> Result<(String, Option<String>), Status> {
        parse(Utf16(&utf16::encode(name))).map(|path| (path.components.join("/"), path.stream))
    }

    fn ok(components: &str, stream: Option<&str>) -> Result<(String, Option<String>), Status> {
        Ok((components.into(), stream.map(Into::into)))
    }

    #[test]
    fn paths_are_cut_at_backslashes() {
        assert_eq!(of(""), ok("", None));
        assert_eq!(of("a\\b c\\d.vmdk"), ok("a/b c/d.vmdk", None));
        assert_eq!(of("dir\\"), ok("dir", None));
        assert_eq!(of("a\\\\b\\\\\\c"), ok("a/b/c", None));
        assert_eq!(of("größe\\𝄞"), ok("größe/𝄞", None));
    }

    #[test]
    fn paths_cannot_leave_the_share() {
        assert_eq!(of("\\a"), Err(Status::INVALID_PARAMETER));
        for name in ["..", "a\\..\\..", ".\\a", "a\\..\\..\\etc", "..\\a", "..:s"] {
            assert_eq!(of(name), Err(Status::OBJECT_PATH_SYNTAX_BAD), "{name}");
        }
        assert_eq!(of("a\\.."), ok("", None));
        assert_eq!(of("a\\b\\..\\c"), ok("a/c", None));
        for name in ["a/b", "a\0b", "a*", "b?", "a|b", "<", ">", "\"", "a\x1f"] {
            assert_eq!(of(name), Err(Status::OBJECT_NAME_INVALID), "{name}");
        }
    }

    #[test]
    fn streams_are_told_from_files() {
        assert_eq!(of("a:s"), ok("a", Some("s")));
        assert_eq!(of("d\\a:s:$data"), ok("d/a", Some("s")));
        assert_eq!(of("a::$DATA"), ok("a", Some("")));
        assert_eq!(of(":s"), ok("", Some("s")));
        for name in ["a:", "a:s:$INDEX", "a:s:", "d:s\\a", "a:s/t", "a::", "a:b:c:$DATA"] {
            assert_eq!(of(name), Err(Status::OBJECT_NAME_INVALID), "{name}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(of(&"x".repeat(255)).is_ok());
        assert_eq!(of(&"x".repeat(256)), Err(Status::OBJECT_NAME_INVALID));
        assert_eq!(of(&"x\\".repeat(16_384)), Err(Status::OBJECT_NAME_INVALID));
        assert_eq!(parse(Utf16(&[0x61])), Err(Status::OBJECT_NAME_INVALID));
        assert_eq!(parse(Utf16(&[0x00, 0xD8])), Err(Status::OBJECT_NAME_INVALID));
    }

    #[test]
    fn short_names_are_told_from_long_ones() {
        for name in ["a", "BUFSIZE.TXT", "12345678.123", "x-1~_.b"] {
            assert!(is_short(name), "{name}");
        }
        for name in ["", ".", "a.", ".a", "123456789", "a.html", "a b", "a.b.c", "ä"] {
            assert!(!is_short(name), "{name}");
        }
    }

    #[test]
    fn targets_may_be_rooted_but_not_the_root() {
        let path = parse_target(Utf16(&utf16::encode("\\a\\b:s"))).unwrap();
        assert_eq!(display(&path), "a\\b:s");
        assert_eq!(parse_target(Utf16(&[])), Err(Status::OBJECT_NAME_INVALID));
    }
}
