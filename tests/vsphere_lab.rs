//! Parts of the vSphere client alone, with no session around them, against the simulator that `interop/check_lease.py` starts: machines
//! from leases, and small files through `/folder`. IMPORTFS_VCSIM names its ready.json; without it these tests fail.

#![allow(clippy::unwrap_used)]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use importfs::datastore::nfc::{Nfc, NfcOptions};
use importfs::datastore::sink::{CompleteDisk, Course, Machine, Sink, Told};
use importfs::datastore::stream_optimized::Options;
use importfs::datastore::{Adapter, Disk, DiskSpec, Provisioning};
use importfs::inventory::Place;
use importfs::tls::{Thumbprint, Trust};
use importfs::vsphere::files::Files;
use importfs::vsphere::inventory::Store;
use importfs::vsphere::{Account, Client};

const SIZE: u64 = 5 * 1024 * 1024 + 512;

struct Image(Vec<u8>);

impl Disk for Image {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn zero(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size())
    }
}

/// `KEY` of the environment, or of the lab's ready.json.
fn lab() -> (Arc<Client>, PathBuf) {
    let ready = PathBuf::from(std::env::var_os("IMPORTFS_VCSIM").expect("run by interop/check_lease.py"));
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    let text = |key: &str| told[key].as_str().unwrap().to_owned();
    let trust = Trust::Thumbprint(Thumbprint::parse(&text("sha256")).unwrap());
    let account = Account { username: "user".into(), password_file: ready.with_file_name("password") };
    (Arc::new(Client::new(&text("url"), &trust, account).unwrap()), ready.with_file_name("expected"))
}

fn place() -> Place {
    Place {
        datacenter: "DC0".into(),
        folder: "Restored".into(),
        host: "DC0_C0_H0".into(),
        pool: "DC0_C0_RP1".into(),
    }
}

fn machine(name: &str) -> (Machine, Vec<Vec<u8>>) {
    let image = |seed: u64| -> Vec<u8> {
        (0..SIZE)
            .map(|at| if at / 65536 % 3 == 0 { 0 } else { (at % 251) as u8 ^ seed as u8 ^ (at >> 16) as u8 })
            .collect()
    };
    let images: Vec<_> = (1..3).map(image).collect();
    let disks = images.iter().enumerate().map(|(number, bytes)| CompleteDisk {
        number,
        datastore: "ds1".into(),
        spec: DiskSpec {
            directory: name.into(),
            extent: format!("{name}_{number}-flat.vmdk"),
            descriptor: format!("{name}_{number}.vmdk"),
            size: SIZE,
            provisioning: if number == 0 { Provisioning::Thin } else { Provisioning::Thick },
            adapter: Adapter::default(),
            machine: None,
        },
        descriptor: format!("{name}_{number}.vmdk"),
        description: "ddb.adapterType = \"lsilogic\"\n".into(),
        source: Arc::new(Image(bytes.clone())),
        allocated: std::iter::once(65536..SIZE).collect(),
    });
    // The second disk is first on the bus: order must not decide.
    let vmx = format!(
        "displayName = \"{name}\"\nguestOS = \"centos7-64\"\nmemSize = \"512\"\nnumvcpus = \"2\"\nfirmware = \"efi\"\n\
         scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.fileName = \"{name}_1.vmdk\"\n\
         scsi0:1.fileName = \"{name}_0.vmdk\"\nethernet0.present = \"TRUE\"\nethernet0.networkName = \"VM Network\"\n"
    );
    let machine = Machine {
        session: format!("/{name}"),
        name: name.into(),
        datastore: "ds1".into(),
        directory: name.into(),
        vmx_name: format!("{name}.vmx"),
        vmx: vmx.into_bytes(),
        nvram: None,
        disks: disks.collect(),
    };
    (machine, images)
}

/// What a push told.
#[derive(Default)]
struct Heard {
    notes: Mutex<Vec<String>>,
    left: Mutex<String>,
}

impl Told for Heard {
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }

    fn left(&self) -> String {
        self.left.lock().unwrap().clone()
    }

    fn leave(&self, trace: &str) -> io::Result<()> {
        trace.clone_into(&mut self.left.lock().unwrap());
        Ok(())
    }
}

fn push(name: &str) -> (io::Result<Option<String>>, Vec<String>) {
    let (client, expected) = lab();
    let (machine, images) = machine(name);
    for (number, image) in images.iter().enumerate() {
        std::fs::create_dir_all(&expected).unwrap();
        std::fs::write(expected.join(format!("{name}_{number}.img")), image).unwrap();
    }
    let told = Heard::default();
    // No second try: what breaks shows.
    let options = NfcOptions { stream: Options::default(), retry: Duration::ZERO };
    let pushed = Nfc::new(client, place(), options).push(&machine, &Course::default(), &told);
    assert!(pushed.is_ok() || told.left().is_empty(), "a failed push leaves nothing: {}", told.left());
    (pushed.map(|pushed| pushed.reference), told.notes.into_inner().unwrap())
}

#[test]
#[ignore = "needs the lab: interop/check_lease.py"]
fn a_machine_is_made_from_a_lease() {
    let (pushed, notes) = push("lease");
    let reference = pushed.unwrap().unwrap();
    assert!(reference.starts_with("vm-") || !reference.is_empty());
    assert!(
        notes.iter().any(|note| note.contains("lease_0.vmdk uploaded to ParaVirtualSCSIController0:1")),
        "{notes:?}"
    );
    // The same again: nothing is made twice.
    let (again, _) = push("lease");
    assert!(again.unwrap_err().to_string().contains("is registered already"));
}

#[test]
#[ignore = "needs the lab: interop/check_lease.py"]
fn a_push_that_the_lab_breaks() {
    let part = std::env::var("IMPORTFS_EXPECT").unwrap();
    let (pushed, _) = push("broken");
    let error = pushed.unwrap_err().to_string();
    assert!(error.contains(&part), "{error}");
}

#[test]
#[ignore = "needs the lab: interop/check_lease.py"]
fn small_files_through_folder() {
    let (client, _) = lab();
    let datacenter = client.datacenter("DC0").unwrap();
    let stores = client.stores(&datacenter).unwrap();
    let store = Store::find(&stores, "ds1").unwrap();
    assert!(!client.exists(store, "a dir/50%").unwrap());
    client.make_directory(&datacenter.reference, store, "a dir/50%").unwrap();
    client.make_directory(&datacenter.reference, store, "a dir/50%").unwrap();
    assert!(client.exists(store, "a dir/50%").unwrap());
    let files = Files::new(&client, &datacenter.reference, "ds1").unwrap();
    assert_eq!(files.get("a dir/50%/none", 10).unwrap(), None);
    let contents: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    files.put("a dir/50%/x #1.nvram", &contents).unwrap();
    assert_eq!(files.get("a dir/50%/x #1.nvram", 300_000).unwrap().unwrap(), contents);
    assert!(
        files
            .get("a dir/50%/x #1.nvram", 299_999)
            .unwrap_err()
            .to_string()
            .contains("more than 299999 bytes")
    );
}
