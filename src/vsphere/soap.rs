//! SOAP 1.1 envelopes of the vSphere API: a request's text, and what an answer says: a result or a fault.

use super::Ref;
use super::error::{Fault, VsphereError};
use super::xml::{Element, Writer};

/// The API's version that is asked for. All that is used here is in 6.5, and later servers answer for earlier versions.
pub const ACTION: &str = "\"urn:vim25/6.5\"";

/// The request of one method on one object; `write` writes the parameters after `_this`.
pub fn request(method: &str, this: &Ref, write: impl FnOnce(&mut Writer)) -> String {
    let mut writer = Writer::default();
    writer.element(method, |inside| {
        inside.reference("_this", this);
        write(inside);
    });
    // The method's element is the only one that names the namespace; what is in it inherits it.
    let body =
        writer.into_text().replacen(&format!("<{method}>"), &format!("<{method} xmlns=\"urn:vim25\">"), 1);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
         <Body>{body}</Body></Envelope>"
    )
}

/// The result of `method`, or its fault.
pub fn response(method: &str, bytes: &[u8]) -> Result<Element, VsphereError> {
    let wrong = |why: String| VsphereError::Answer { method: method.to_owned(), why };
    let envelope = Element::parse(bytes).map_err(|error| wrong(error.to_string()))?;
    let body = envelope.child("Body").ok_or_else(|| wrong("it is no SOAP envelope".into()))?;
    if let Some(fault) = body.child("Fault") {
        return Err(VsphereError::Fault(Fault::of_soap(fault)));
    }
    let name = format!("{method}Response");
    let result = body.child(&name).ok_or_else(|| wrong(format!("it holds no {name}")))?;
    Ok(result.clone())
}

/// The reference in an element `<x type="Kind">id</x>`.
pub fn reference(element: &Element) -> Option<Ref> {
    let kind = if element.kind.is_empty() { return None } else { element.kind.clone() };
    let id = element.text.trim();
    (!id.is_empty()).then(|| Ref { kind, id: id.to_owned() })
}

/// The `returnval` of a result.
pub fn returned<'a>(method: &str, result: &'a Element) -> Result<&'a Element, VsphereError> {
    result.child("returnval").ok_or_else(|| VsphereError::Answer {
        method: method.to_owned(),
        why: "it holds no returnval".into(),
    })
}

/// The reference that a result returns.
pub fn returned_reference(method: &str, result: &Element) -> Result<Ref, VsphereError> {
    reference(returned(method, result)?).ok_or_else(|| VsphereError::Answer {
        method: method.to_owned(),
        why: "its returnval is no reference".into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn request_and_result() {
        let text = request("Login", &Ref::new("SessionManager", "sm"), |w| {
            w.value("userName", "a<b").optional("locale", None::<&str>);
        });
        let root = Element::parse(text.as_bytes()).unwrap();
        let login = root.at(&["Body", "Login"]).unwrap();
        assert_eq!((login.text_at(&["_this"]), login.text_at(&["userName"])), ("sm", "a<b"));
        assert!(text.contains("<Login xmlns=\"urn:vim25\">"));
        let answer =
            "<E><Body><LoginResponse><returnval type=\"Task\">t-1</returnval></LoginResponse></Body></E>";
        let result = response("Login", answer.as_bytes()).unwrap();
        assert_eq!(returned_reference("Login", &result).unwrap(), Ref::new("Task", "t-1"));
        assert!(matches!(response("Logout", answer.as_bytes()), Err(VsphereError::Answer { .. })));
        assert!(matches!(response("Login", b"<html/>"), Err(VsphereError::Answer { .. })));
        assert!(matches!(response("Login", b"503 Service Unavailable"), Err(VsphereError::Answer { .. })));
    }
}
