//! Extended attributes on the wire (MS-FSA 2.1.5.11.10, 2.1.5.14.6): FileFullEaInformation, asked for and set.

use smb_proto::Status;
use smb_proto::fscc::ea::{self, Ea};
use smb_proto::msg::query_info as wire;

use crate::smb::open::Open;

/// Longest name of an attribute: counted by one byte (MS-FSCC 2.4.16).
const NAME_MAX: usize = 254;

/// The attributes that a query asks for, whole ones as they fit into `limit` bytes.
pub(super) fn query(
    open: &Open,
    message: &wire::Request<'_>,
    limit: usize,
) -> Result<(Status, Vec<u8>), Status> {
    let mut list = open.file.extended_attributes()?;
    if !message.input.is_empty() {
        list = asked_for(&list, message.input)?;
    }
    if list.is_empty() {
        return Err(Status::NO_EAS_ON_FILE);
    }
    if message.flags & wire::FLAG_RETURN_SINGLE_ENTRY != 0 {
        list.truncate(1);
    }
    let entries: Vec<_> =
        list.iter().map(|(name, value)| Ea { flags: 0, name: name.as_bytes(), value }).collect();
    let mut data = Vec::new();
    ea::encode(&entries, &mut data);
    let mut count = entries.len();
    while data.len() > limit {
        count -= 1;
        if count == 0 {
            return Err(Status::BUFFER_TOO_SMALL);
        }
        data.clear();
        ea::encode(&entries[..count], &mut data);
    }
    Ok((if count < entries.len() { Status::BUFFER_OVERFLOW } else { Status::SUCCESS }, data))
}

/// Those of a list of names; one that is not there is answered as empty.
fn asked_for(list: &[(String, Vec<u8>)], names: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let names = ea::decode_names(names).map_err(|_| Status::EA_LIST_INCONSISTENT)?;
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let name = checked_name(name)?;
        let known = list.iter().find(|(own, _)| own.eq_ignore_ascii_case(&name));
        found.push(known.cloned().unwrap_or((name.to_ascii_uppercase(), Vec::new())));
    }
    Ok(found)
}

/// A list to set, from a SET_INFO or a CREATE. Names are 8-bit characters without those that NTFS refuses.
pub(super) fn decode(data: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let list = ea::decode(data).map_err(|_| Status::EA_LIST_INCONSISTENT)?;
    list.iter().map(|ea| Ok((checked_name(ea.name)?, ea.value.to_vec()))).collect()
}

fn checked_name(name: &[u8]) -> Result<String, Status> {
    let legal = |byte: &u8| (b' '..0x7F).contains(byte) && !br#""*+,/:;<=>?[\]|"#.contains(byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.iter().all(legal) {
        return Err(Status::INVALID_EA_NAME);
    }
    String::from_utf8(name.to_vec()).map_err(|_| Status::INVALID_EA_NAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chain(names: &[&str]) -> Vec<u8> {
        let list: Vec<_> =
            names.iter().map(|name| Ea { flags: 0, name: name.as_bytes(), value: b"v" }).collect();
        let mut data = Vec::new();
        ea::encode(&list, &mut data);
        data
    }

    #[test]
    fn names_are_those_that_ntfs_takes() {
        assert_eq!(decode(&chain(&["a b", "DOS.ATTR"])).unwrap().len(), 2);
        for name in ["", "a/b", "a:b", "a\\b", "a\tb", "\u{e4}"] {
            assert_eq!(decode(&chain(&[name])), Err(Status::INVALID_EA_NAME), "{name}");
        }
        assert_eq!(decode(&chain(&["abc"])[..9]), Err(Status::EA_LIST_INCONSISTENT));
    }

    #[test]
    fn names_asked_for_are_found_without_case_and_answered_empty_where_missing() {
        let list = vec![("A".to_owned(), vec![1]), ("B".to_owned(), vec![2])];
        // FileGetEaInformation: next offset, length, name, its terminator.
        let names = [8, 0, 0, 0, 1, b'b', 0, 0, 0, 0, 0, 0, 1, b'x', 0];
        assert_eq!(
            asked_for(&list, &names).unwrap(),
            [("B".to_owned(), vec![2]), ("X".to_owned(), Vec::new())]
        );
    }
}
