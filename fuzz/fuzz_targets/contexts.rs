//! Chains of create contexts: what decodes ends, lies inside, and survives being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::msg::create::context::{Contexts, Writer};

fuzz_target!(|data: &[u8]| {
    let Ok(contexts) = Contexts::decode(data) else { return };
    let found: Vec<_> = contexts.iter().collect();
    assert!(found.len() <= data.len() / 16, "more contexts than there is room for");
    let mut writer = Writer::new();
    for context in &found {
        if context.name.len() > 1000 {
            return; // its data's offset would not fit 16 bits
        }
        writer.push(context.name, context.data);
    }
    let again: Vec<_> = writer.contexts().iter().collect();
    assert_eq!(again, found);
    assert_eq!(Contexts::decode(writer.contexts().as_bytes()), Ok(writer.contexts()));
});
