//! Files that a virtual machine names: the input is texts with a zero byte between. The first is the VMX, the others are whatever file is
//! asked for.
#![no_main]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use importfs::import::formats::belongs::{Look, files};
use importfs::inventory::StoreFile;
use libfuzzer_sys::fuzz_target;

struct Texts<'a>(Vec<&'a [u8]>);

const VMX: &str = "web/web.vmx";
const LISTED: [&str; 4] = ["web.vmx", "web.nvram", "vmware-1.log", "somebody.txt"];

impl Look for Texts<'_> {
    fn read(&self, file: &StoreFile) -> Option<Vec<u8>> {
        if file.path == VMX {
            return self.0.first().map(|text| text.to_vec());
        }
        let mut hasher = DefaultHasher::new();
        file.path.hash(&mut hasher);
        // Some are not there.
        let others = self.0.get(1..)?;
        others.get(hasher.finish() as usize % (others.len() + 1)).map(|text| text.to_vec())
    }
    fn list(&self, _: &StoreFile) -> Vec<String> {
        LISTED.map(str::to_owned).to_vec()
    }
    fn datastore(&self, volume: &str) -> Option<String> {
        (volume.len() < 8).then(|| format!("of-{volume}"))
    }
}

fuzz_target!(|data: &[u8]| {
    let texts = Texts(data.split(|byte| *byte == 0).take(8).collect());
    let all = String::from_utf8_lossy(data);
    let vmx = StoreFile { datastore: "ds1".into(), path: VMX.into() };
    let found = files(&vmx, &texts);
    assert!(found.is_empty() || found.last() == Some(&vmx), "the VMX goes last");
    for file in &found {
        assert!(file.path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{file}");
        let name = file.path.rsplit('/').next().unwrap_or_default();
        // Values have an encoding and escapes; what has neither stands in a text as it is.
        let verbatim = name.is_ascii() && !data.contains(&b'|');
        assert!(!verbatim || LISTED.contains(&name) || all.contains(name), "{file} is named nowhere");
        assert!(!verbatim || name != "somebody.txt" || all.contains(name), "{file}");
    }
});
