//! XML as the vSphere API speaks it: a bounded tree of what came, and a writer of what goes.
//!
//! The tree knows local names only: every element of an answer is in one namespace. Bytes come from outside: size, depth
//! and number of elements are bounded, document types are refused, and no entity but XML's own five is expanded.

use std::borrow::Cow;
use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

/// Bytes of an answer. A page of a thousand objects with the few properties asked for has some hundred KiB.
pub const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// Elements within each other. Answers of the methods used here have less than 20.
pub const DEPTH_MAX: usize = 64;
/// Elements of an answer.
pub const ELEMENTS_MAX: usize = 400_000;

/// Why bytes are no document that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// Too many bytes, elements, or levels.
    #[error("it has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Not well-formed, or with a document type.
    #[error("{0}")]
    Malformed(String),
}

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name without prefix.
    pub name: String,
    /// `xsi:type` without prefix, empty where there is none.
    pub xsi_type: String,
    /// The plain attribute `type`: the kind of a managed object reference.
    pub kind: String,
    /// Its text, without that of its children.
    pub text: String,
    /// Its children, in order.
    pub children: Vec<Element>,
}

impl Element {
    /// Reads a document.
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(XmlError::TooLarge { what: "bytes", limit: DOCUMENT_BYTES_MAX });
        }
        let text = std::str::from_utf8(bytes).map_err(malformed)?;
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        reader.config_mut().expand_empty_elements = true;
        let mut open: Vec<Self> = Vec::new();
        let mut root = None;
        let mut count = 0;
        loop {
            match reader.read_event().map_err(malformed)? {
                Event::Start(start) => {
                    count += 1;
                    if count > ELEMENTS_MAX {
                        return Err(XmlError::TooLarge { what: "elements", limit: ELEMENTS_MAX });
                    }
                    if open.len() >= DEPTH_MAX {
                        return Err(XmlError::TooLarge { what: "levels", limit: DEPTH_MAX });
                    }
                    if root.is_some() {
                        return Err(XmlError::Malformed("it has two roots".into()));
                    }
                    open.push(Self::started(&start)?);
                }
                Event::End(_) => {
                    let Some(done) = open.pop() else {
                        return Err(XmlError::Malformed("an end too many".into()));
                    };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => root = Some(done),
                    }
                }
                Event::Text(part) => append(&mut open, &part.xml10_content()),
                Event::CData(part) => append(&mut open, &part.xml10_content()),
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(malformed)?;
                    let character = character.or_else(|| predefined(&reference.xml10_content()));
                    let Some(character) = character else {
                        return Err(XmlError::Malformed("it has an entity of its own".into()));
                    };
                    append(&mut open, character.encode_utf8(&mut [0; 4]));
                }
                Event::DocType(_) => return Err(XmlError::Malformed("it has a document type".into())),
                Event::Eof if open.is_empty() => {
                    return root.ok_or_else(|| XmlError::Malformed("it is empty".into()));
                }
                Event::Eof => return Err(XmlError::Malformed("it ends in the middle".into())),
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn started(start: &BytesStart<'_>) -> Result<Self, XmlError> {
        let mut element = Self { name: start.local_name().as_ref().to_owned(), ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(malformed)?;
            let key = attribute.key.as_ref();
            if key != "type" && !key.ends_with(":type") {
                continue;
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
            if key == "type" {
                element.kind = value.into_owned();
            } else {
                value.rsplit(':').next().unwrap_or_default().clone_into(&mut element.xsi_type);
            }
        }
        Ok(element)
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element at the end of that way of first children.
    #[must_use]
    pub fn at(&self, way: &[&str]) -> Option<&Self> {
        way.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text at the end of that way; empty where there is nothing.
    #[must_use]
    pub fn text_at(&self, way: &[&str]) -> &str {
        self.at(way).map_or("", |element| element.text.trim())
    }

    /// Whether the text there is `true` or `1`.
    #[must_use]
    pub fn flag_at(&self, way: &[&str]) -> bool {
        matches!(self.text_at(way), "true" | "1")
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

#[allow(clippy::needless_pass_by_value)] // what map_err hands over
fn malformed(error: impl ToString) -> XmlError {
    XmlError::Malformed(error.to_string())
}

fn predefined(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "apos" => '\'',
        "quot" => '"',
        _ => return None,
    })
}

/// `text` as it may stand in a document: escaped, without the characters that XML 1.0 has no way to write.
fn escaped(text: &str) -> String {
    let allowed =
        |c: &char| matches!(c, '\t' | '\n' | '\r') || *c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let clean: Cow<'_, str> =
        if text.chars().all(|c| allowed(&c)) { text.into() } else { text.chars().filter(allowed).collect() };
    quick_xml::escape::escape(clean).into_owned()
}

/// What goes: elements in the order of the API's types, which it insists on.
#[derive(Debug, Default)]
pub struct Writer {
    text: String,
}

impl Writer {
    /// An element with what `inside` writes.
    pub fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.text, "<{name}>");
        inside(self);
        let _ = write!(self.text, "</{name}>");
        self
    }

    /// An element of a type that its place does not tell.
    pub fn typed(&mut self, name: &str, xsi_type: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.text, "<{name} xsi:type=\"{xsi_type}\">");
        inside(self);
        let _ = write!(self.text, "</{name}>");
        self
    }

    /// An element with a text or number.
    #[allow(clippy::needless_pass_by_value)] // numbers and flags, which read better without a &
    pub fn value(&mut self, name: &str, value: impl ToString) -> &mut Self {
        let _ = write!(self.text, "<{name}>{}</{name}>", escaped(&value.to_string()));
        self
    }

    /// [`Self::value`] where there is one.
    pub fn optional(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        match value {
            Some(value) => self.value(name, value),
            None => self,
        }
    }

    /// A reference to a managed object.
    pub fn reference(&mut self, name: &str, to: &super::Ref) -> &mut Self {
        let (kind, id) = (escaped(&to.kind), escaped(&to.id));
        let _ = write!(self.text, "<{name} type=\"{kind}\">{id}</{name}>");
        self
    }

    /// Text of the element that is open.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(&escaped(text));
        self
    }

    /// What another writer wrote.
    pub fn raw(&mut self, written: &str) -> &mut Self {
        self.text.push_str(written);
        self
    }

    /// What was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_types_and_text() {
        let text = "\u{feff}<?xml version=\"1.0\"?><!-- c --><a:Root xmlns:a=\"u\"><obj type=\"VirtualMachine\">vm-1</obj>\
            <val xsi:type=\"vim:ArrayOf&lt;\">x &amp; <![CDATA[<y>]]>&#x41;</val><e/></a:Root>";
        let root = Element::parse(text.as_bytes()).unwrap();
        assert_eq!((root.name.as_str(), root.children.len()), ("Root", 3));
        assert_eq!((root.children[0].kind.as_str(), root.text_at(&["obj"])), ("VirtualMachine", "vm-1"));
        assert_eq!((root.children[1].xsi_type.as_str(), root.text_at(&["val"])), ("ArrayOf<", "x & <y>A"));
        assert_eq!(root.text_at(&["none", "there"]), "");
    }

    #[test]
    fn what_is_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        assert_eq!(
            Element::parse(deep.as_bytes()),
            Err(XmlError::TooLarge { what: "levels", limit: DEPTH_MAX })
        );
        let many = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
        assert!(matches!(Element::parse(many.as_bytes()), Err(XmlError::TooLarge { what: "elements", .. })));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>";
        for text in [bomb, "<a>&b;</a>", "<a><b></a>", "<a>", "", "</a>", "<a/><b/>", "x\u{0}"] {
            assert!(matches!(Element::parse(text.as_bytes()), Err(XmlError::Malformed(_))), "{text}");
        }
        assert!(Element::parse(b"<a>\xff</a>").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Element::parse(&bytes);
        }

        #[test]
        fn any_markup_is_an_answer(text in "[<>/&;#!\\[\\]a:=\"' x0-9]{0,60}") {
            let _ = Element::parse(text.as_bytes());
        }

        #[test]
        fn what_is_written_is_read_back(value in "[^\r]{0,40}", kind in "[^\r\n\t]{0,10}") {
            let mut writer = Writer::default();
            let to = crate::vsphere::Ref { kind, id: value.clone() };
            writer.element("a", |w| { w.value("v", &value).reference("r", &to); });
            let read = Element::parse(writer.into_text().as_bytes()).unwrap();
            let clean = |text: &str| text.chars().filter(|c| matches!(c, '\t' | '\n') || *c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect::<String>();
            prop_assert_eq!(&read.child("v").unwrap().text, &clean(&value));
            prop_assert_eq!(&read.child("r").unwrap().kind, &clean(&to.kind));
        }
    }
}
