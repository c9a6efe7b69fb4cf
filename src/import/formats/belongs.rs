//! Which files of a directory belong to a virtual machine: those that its VMX, its list of snapshots and its disks' descriptors
//! name, and the companions that every virtual machine has. What nobody names is somebody's own.

use std::collections::BTreeSet;

use super::cfg::{ends_with_ignore_case, strip_suffix_ignore_case};
use super::descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor};
use super::vmx::Vmx;
use crate::inventory::StoreFile;

/// Descriptors that are followed: a hundred disks with their snapshots.
const DESCRIPTORS_MAX: usize = 4096;

/// What a directory is looked at with. Paths are those that the machine knows.
pub trait Look {
    /// The bytes of a small file; `None` where it is none, or can't be read.
    fn read(&self, file: &StoreFile) -> Option<Vec<u8>>;
    /// The names in a directory.
    fn list(&self, directory: &StoreFile) -> Vec<String>;
    /// The datastore of `/vmfs/volumes/<volume>`.
    fn datastore(&self, volume: &str) -> Option<String>;
}

/// Whether a name is a VMX's.
pub fn is_vmx(name: &str) -> bool {
    ends_with_ignore_case(name, ".vmx")
}

/// Whether a file is there only while a virtual machine runs: its swap, and the locks of its files on NFS and elsewhere.
pub fn is_lock(name: &str) -> bool {
    ends_with_ignore_case(name, ".vswp") || ends_with_ignore_case(name, ".lck") || name.starts_with(".lck-")
}

/// The files of the virtual machine with that VMX, the VMX last: without it nobody could tell the others.
pub fn files(vmx: &StoreFile, look: &dyn Look) -> Vec<StoreFile> {
    let Some(parsed) = look.read(vmx).and_then(|bytes| Vmx::parse(&bytes).ok()) else { return Vec::new() };
    let (directory, name) = split(vmx);
    let stem = strip_suffix_ignore_case(name, ".vmx").unwrap_or(name);
    let mut found = BTreeSet::new();
    let mut descriptors = Vec::new();
    let beside = |name: &str| {
        let path =
            if directory.path.is_empty() { name.to_owned() } else { format!("{}/{name}", directory.path) };
        StoreFile { datastore: directory.datastore.clone(), path }
    };
    for name in look.list(&directory).iter().filter(|name| is_companion(name, stem)) {
        found.insert(beside(name));
    }
    for (key, value) in parsed.entries() {
        let companion = ["nvram", "extendedConfigFile"].iter().any(|known| known.eq_ignore_ascii_case(key));
        if companion && !value.contains(['/', '\\']) {
            found.extend(resolve(value, &directory, look));
        }
    }
    descriptors.extend(parsed.disks().into_iter().filter_map(|(_, path)| resolve(&path, &directory, look)));
    // The list of snapshots is written like a VMX.
    let snapshots = look.read(&beside(&format!("{stem}.vmsd"))).and_then(|bytes| Vmx::parse(&bytes).ok());
    for (_, value) in snapshots.iter().flat_map(Vmx::entries) {
        let Some(file) = resolve(value, &directory, look) else { continue };
        if ends_with_ignore_case(value, ".vmdk") {
            descriptors.push(file);
        } else if [".vmsn", ".vmem"].iter().any(|known| ends_with_ignore_case(value, known)) {
            found.insert(file);
        }
    }
    follow(descriptors, &mut found, look);
    found.remove(vmx);
    found.into_iter().chain([vmx.clone()]).collect()
}

/// Adds descriptors, their extents, and what they are snapshots of.
fn follow(mut descriptors: Vec<StoreFile>, found: &mut BTreeSet<StoreFile>, look: &dyn Look) {
    let mut seen = BTreeSet::new();
    while let Some(file) = descriptors.pop() {
        if seen.len() >= DESCRIPTORS_MAX || !seen.insert(file.clone()) {
            continue;
        }
        let Some(bytes) = look.read(&file).filter(|bytes| bytes.len() <= DESCRIPTOR_BYTES_MAX) else {
            continue;
        };
        let Ok(descriptor) = Descriptor::parse(&bytes) else { continue };
        let (directory, _) = split(&file);
        found.extend(descriptor.extents.iter().filter_map(|extent| resolve(&extent.file, &directory, look)));
        let text = String::from_utf8_lossy(&bytes);
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let path = || resolve(value.trim().trim_matches('"'), &directory, look);
            match key.trim() {
                key if key.eq_ignore_ascii_case("parentFileNameHint") => descriptors.extend(path()),
                key if key.eq_ignore_ascii_case("changeTrackPath") => found.extend(path()),
                _ => {}
            }
        }
        found.insert(file);
    }
}

fn split(file: &StoreFile) -> (StoreFile, &str) {
    let (directory, name) = file.path.rsplit_once('/').unwrap_or(("", file.path.as_str()));
    (StoreFile { datastore: file.datastore.clone(), path: directory.to_owned() }, name)
}

/// A path in a file of that directory: a name beside it, `/vmfs/volumes/<volume>/path`, or `[datastore] path`. A way out of
/// the directory is followed nowhere.
fn resolve(path: &str, directory: &StoreFile, look: &dyn Look) -> Option<StoreFile> {
    let plain = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let (datastore, path) = if let Some(rest) = path.strip_prefix("/vmfs/volumes/") {
        let (volume, path) = rest.split_once('/')?;
        (look.datastore(volume)?, path.to_owned())
    } else if let Some((datastore, path)) = path.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        (datastore.to_owned(), path.to_owned())
    } else if directory.path.is_empty() {
        (directory.datastore.clone(), path.to_owned())
    } else {
        (directory.datastore.clone(), format!("{}/{path}", directory.path))
    };
    plain(&path).then_some(StoreFile { datastore, path })
}

/// Files that a host makes for a virtual machine and that nothing names. `stem` is the VMX's name without its ending.
fn is_companion(name: &str, stem: &str) -> bool {
    let logs = || {
        let number = name.strip_prefix("vmware-").and_then(|rest| rest.strip_suffix(".log"));
        name == "vmware.log" || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let Some(rest) = name.strip_prefix(stem) else { return logs() };
    let exact = [".vmx~", ".vmxf", ".vmsd", ".nvram", ".vmss", ".scoreboard", "-aux.xml"];
    let numbered =
        rest.starts_with('-') && [".vmss", ".vmem", ".hlog"].iter().any(|ending| rest.ends_with(ending));
    exact.contains(&rest) || numbered || logs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Files(BTreeMap<&'static str, &'static str>);

    impl Look for Files {
        fn read(&self, file: &StoreFile) -> Option<Vec<u8>> {
            let text = self.0.get(format!("{}:{}", file.datastore, file.path).as_str());
            text.map(|text| text.as_bytes().to_vec())
        }
        fn list(&self, directory: &StoreFile) -> Vec<String> {
            let prefix = format!("{}:{}/", directory.datastore, directory.path);
            self.0.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect()
        }
        fn datastore(&self, volume: &str) -> Option<String> {
            (volume == "uuid-2").then(|| "ds2".to_owned())
        }
    }

    fn of(files: &[(&'static str, &'static str)]) -> Vec<String> {
        let look = Files(files.iter().copied().collect());
        let vmx = StoreFile { datastore: "ds1".into(), path: "web/web.vmx".into() };
        super::files(&vmx, &look).iter().map(|file| format!("{}:{}", file.datastore, file.path)).collect()
    }

    #[test]
    fn what_the_machine_names_and_nothing_else() {
        let found = of(&[
            (
                "ds1:web/web.vmx",
                "nvram = \"other.nvram\"\nscsi0:0.fileName = \"web-000001.vmdk\"\nide1:0.fileName = \"x.iso\"\n\
                 scsi0:1.fileName = \"/vmfs/volumes/uuid-2/data/d.vmdk\"\nscsi0:2.fileName = \"/vmfs/volumes/gone/d.vmdk\"\n\
                 scsi0:3.fileName = \"../other/e.vmdk\"\n",
            ),
            (
                "ds1:web/web.vmsd",
                "snapshot0.filename = \"web-Snapshot1.vmsn\"\nsnapshot0.disk0.fileName = \"old.vmdk\"\n",
            ),
            (
                "ds1:web/web-000001.vmdk",
                "# Disk DescriptorFile\nparentFileNameHint=\"web.vmdk\"\nRW 8 VMFSSPARSE \"web-000001-delta.vmdk\"\n",
            ),
            (
                "ds1:web/web.vmdk",
                "# Disk DescriptorFile\nRW 8 VMFS \"web-flat.vmdk\"\nchangeTrackPath=\"web-ctk.vmdk\"\n",
            ),
            ("ds1:web/old.vmdk", "# Disk DescriptorFile\nRW 8 VMFS \"old-flat.vmdk\"\n"),
            ("ds2:data/d.vmdk", "# Disk DescriptorFile\nRW 8 VMFS \"d-flat.vmdk\"\n"),
            ("ds1:web/vmware.log", ""),
            ("ds1:web/vmware-3.log", ""),
            ("ds1:web/vmware-notes.log", ""),
            ("ds1:web/web.nvram", ""),
            ("ds1:web/web2.nvram", ""),
            ("ds1:web/x.iso", ""),
            ("ds1:web/foreign.vmdk", "# Disk DescriptorFile\nRW 8 VMFS \"foreign-flat.vmdk\"\n"),
        ]);
        let expected = [
            "ds1:web/old-flat.vmdk",
            "ds1:web/old.vmdk",
            "ds1:web/other.nvram",
            "ds1:web/vmware-3.log",
            "ds1:web/vmware.log",
            "ds1:web/web-000001-delta.vmdk",
            "ds1:web/web-000001.vmdk",
            "ds1:web/web-Snapshot1.vmsn",
            "ds1:web/web-ctk.vmdk",
            "ds1:web/web-flat.vmdk",
            "ds1:web/web.nvram",
            "ds1:web/web.vmdk",
            "ds1:web/web.vmsd",
            "ds2:data/d-flat.vmdk",
            "ds2:data/d.vmdk",
            "ds1:web/web.vmx",
        ];
        assert_eq!(found, expected);
    }

    /// Files of `ds1` by their paths.
    struct Tree(BTreeMap<String, String>);

    impl Look for Tree {
        fn read(&self, file: &StoreFile) -> Option<Vec<u8>> {
            self.0.get(&file.path).map(|text| text.clone().into_bytes())
        }
        fn list(&self, directory: &StoreFile) -> Vec<String> {
            let prefix = format!("{}/", directory.path);
            self.0.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect()
        }
        fn datastore(&self, _: &str) -> Option<String> {
            None
        }
    }

    /// One text for every file.
    struct Same(Vec<u8>);

    impl Look for Same {
        fn read(&self, _: &StoreFile) -> Option<Vec<u8>> {
            Some(self.0.clone())
        }
        fn list(&self, _: &StoreFile) -> Vec<String> {
            vec!["web.nvram".to_owned(), "other".to_owned()]
        }
        fn datastore(&self, volume: &str) -> Option<String> {
            Some(volume.to_owned())
        }
    }

    proptest! {
        #[test]
        fn no_text_leads_up_or_on_for_ever(
            lines in prop::collection::vec(
                ("(scsi0:[01].fileName|nvram|RW 8 VMFS|parentFileNameHint|changeTrackPath|createType)",
                 "(|/vmfs/volumes/|\\[ds1\\] |x/|\\.\\./|/){0,4}[a-z.]{0,8}(|.vmdk|.vmsn)"),
                0..12,
            ),
            descriptor in any::<bool>(),
        ) {
            let mut text = if descriptor { "# Disk DescriptorFile\n".to_owned() } else { String::new() };
            for (key, value) in lines {
                let sign = if key.starts_with("RW") { "" } else { "=" };
                text.push_str(&[key.as_str(), " ", sign, " \"", &value, "\"\n"].concat());
            }
            let vmx = StoreFile { datastore: "ds1".into(), path: "web/web.vmx".into() };
            let found = super::files(&vmx, &Same(text.into_bytes()));
            for file in &found {
                let plain = file.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
                prop_assert!(plain && !file.path.is_empty(), "{file}");
            }
            prop_assert!(found.is_empty() || found.last() == Some(&vmx));
        }

        #[test]
        fn what_nobody_names_is_nobodys(
            named in prop::collection::btree_set("[a-f]{1,3}", 0..6),
            there in prop::collection::btree_set("[a-f]{1,3}", 0..12),
        ) {
            // Disks beside the VMX, some of which it names; all have a descriptor and an extent.
            let mut files = std::collections::BTreeMap::new();
            let disks = named.iter().enumerate();
            let text = disks.map(|(n, name)| format!("scsi0:{n}.fileName = \"{name}.vmdk\"\n"));
            files.insert("web/web.vmx".to_owned(), "displayName = \"web\"\n".to_owned() + &text.collect::<String>());
            for name in &there {
                files.insert(format!("web/{name}.vmdk"), format!("# Disk DescriptorFile\nRW 8 VMFS \"{name}-flat.vmdk\"\n"));
                files.insert(format!("web/{name}-flat.vmdk"), String::new());
            }
            let vmx = StoreFile { datastore: "ds1".into(), path: "web/web.vmx".into() };
            let found: BTreeSet<_> = super::files(&vmx, &Tree(files)).into_iter().map(|file| file.path).collect();
            let mut expected = BTreeSet::from(["web/web.vmx".to_owned()]);
            for name in named.intersection(&there) {
                expected.extend([format!("web/{name}.vmdk"), format!("web/{name}-flat.vmdk")]);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn chains_that_bite_their_tail_and_machines_without_a_vmx() {
        let found = of(&[
            ("ds1:web/web.vmx", "scsi0:0.fileName = \"a.vmdk\"\n"),
            (
                "ds1:web/a.vmdk",
                "# Disk DescriptorFile\nparentFileNameHint=\"a.vmdk\"\nRW 8 VMFS \"../b/b-flat.vmdk\"\n",
            ),
        ]);
        assert_eq!(found, ["ds1:web/a.vmdk", "ds1:web/web.vmx"]);
        assert!(of(&[("ds1:web/a-flat.vmdk", "")]).is_empty());
    }
}
