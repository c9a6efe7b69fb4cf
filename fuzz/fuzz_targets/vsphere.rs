//! Answers of a vSphere server: any bytes are a tree, a result, a fault with a sentence, or an error.
#![no_main]

use importfs::vsphere::VsphereError;
use importfs::vsphere::soap;
use importfs::vsphere::xml::Element;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(root) = Element::parse(data) {
        let _ = soap::reference(&root);
        let _ = importfs::vsphere::Fault::of_soap(&root).sentence("it");
        let _ = importfs::vsphere::Fault::of_localized(&root).sentence("it");
    }
    match soap::response("Login", data) {
        Ok(result) => {
            let _ = soap::returned_reference("Login", &result);
        }
        Err(error @ VsphereError::Fault(_)) => assert!(!error.about("it").to_string().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
