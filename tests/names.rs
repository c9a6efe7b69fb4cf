//! Names at their limits: lengths in UTF-16 and in bytes, characters past the first plane, case.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Open};
use smb_proto::Status;
use smb_proto::msg::create::disposition;

fn make(client: &mut Client, name: &str) -> Status {
    client.open(&Open { disposition: disposition::CREATE, ..Open::file(name) }).status()
}

fn find(client: &mut Client, name: &str) -> Status {
    client.open(&Open { disposition: disposition::OPEN, ..Open::file(name) }).status()
}

#[test]
fn names_of_255_bytes_are_taken_and_longer_ones_refused() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    for unit in ["x", "ß", "語"] {
        let longest = unit.repeat(255 / unit.len());
        assert_eq!(make(&mut client, &longest), Status::SUCCESS, "{unit}");
        assert_eq!(find(&mut client, &longest), Status::SUCCESS, "{unit}");
        // Within 255 UTF-16 units, but more bytes than a Linux file system takes.
        let longer = unit.repeat(255 / unit.len() + 1);
        assert_eq!(make(&mut client, &longer), Status::OBJECT_NAME_INVALID, "{unit}");
    }
}

#[test]
fn case_is_folded_as_windows_does_and_kept_as_given() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    for (name, other) in [("Größe.VMDK", "GRÖSSE.vmdk"), ("straße", "STRASSE")] {
        assert_eq!(make(&mut client, name), Status::SUCCESS);
        assert_eq!(find(&mut client, other), Status::OBJECT_NAME_NOT_FOUND, "ß is one character");
    }
    for (name, other) in [("Ünïcödé", "üNÏCÖDÉ"), ("ДИСК", "диск"), ("𝄞 clef", "𝄞 CLEF")]
    {
        assert_eq!(make(&mut client, name), Status::SUCCESS);
        assert_eq!(find(&mut client, other), Status::SUCCESS, "{other}");
        assert_eq!(make(&mut client, other), Status::OBJECT_NAME_COLLISION, "{other}");
        assert!(desk.directory.path().join(name).exists(), "as given");
    }
    // Windows knows no case past the first plane.
    assert_eq!(make(&mut client, "\u{10400}"), Status::SUCCESS);
    assert_eq!(find(&mut client, "\u{10428}"), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(make(&mut client, "\u{10428}"), Status::SUCCESS);
}
