//! Security descriptors: what decodes must encode to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::fscc::security::{CONTROL_DACL_PRESENT, CONTROL_SELF_RELATIVE, SecurityDescriptor};

fuzz_target!(|data: &[u8]| {
    let Ok(mut descriptor) = SecurityDescriptor::decode(data) else { return };
    descriptor.control |= CONTROL_SELF_RELATIVE;
    if descriptor.dacl.is_some() {
        descriptor.control |= CONTROL_DACL_PRESENT;
    }
    let mut wire = Vec::new();
    descriptor.encode(&mut wire);
    assert_eq!(SecurityDescriptor::decode(&wire), Ok(descriptor));
});
