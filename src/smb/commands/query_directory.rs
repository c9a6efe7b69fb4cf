//! QUERY_DIRECTORY (MS-SMB2 3.3.5.18; MS-FSA 2.1.5.6.3).

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::fscc::directory::{Entry, Writer, fixed_len};
use smb_proto::msg::query_directory as wire;

use super::{basic_of, open_of};
use crate::smb::open::{Enumeration, Open, locked};
use crate::smb::pattern::Pattern;
use crate::smb::request::{Outcome, Reply, Request};
use crate::smb::server::PAYLOAD_BYTES_MAX;
use crate::smb::share::DirEntry;

/// Handles a QUERY_DIRECTORY.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.output_buffer_length.into())?;
    let open = open_of(request, message.file_id)?;
    if !open.file.is_directory() || message.output_buffer_length > PAYLOAD_BYTES_MAX {
        return Err(Status::INVALID_PARAMETER.into());
    }
    open.require(access::LIST_DIRECTORY)?;
    let limit = message.output_buffer_length as usize;
    let fixed = fixed_len(message.info_class).ok_or(Status::INVALID_INFO_CLASS)?;
    if limit < fixed {
        return Err(Status::INFO_LENGTH_MISMATCH.into());
    }
    let mut writer = Writer::new(message.info_class, limit).ok_or(Status::INVALID_INFO_CLASS)?;
    let mut scan = locked(&open.enumeration);
    start(&open, &mut scan, &message)?;
    let single = message.flags & wire::FLAG_RETURN_SINGLE_ENTRY != 0;
    while let Some(entry) = next(&mut scan)? {
        scan.found = true;
        if !writer.push(&wire_entry(&entry)) {
            let none = writer.is_empty();
            scan.pending = Some(entry);
            if none {
                return Err(Status::INFO_LENGTH_MISMATCH.into());
            }
            break;
        }
        if single {
            break;
        }
    }
    if writer.is_empty() {
        // The first query of a scan tells a pattern that nothing matches from the end of the names.
        return Err(if scan.found { Status::NO_MORE_FILES } else { Status::NO_SUCH_FILE }.into());
    }
    let data = writer.finish();
    Ok(Reply::success(|out| wire::Response { data: &data }.encode(out)))
}

/// Begins a scan, or begins it again; the pattern stays that of the first query unless the directory is reopened or
/// restarted with another (3.3.5.18).
fn start(open: &Open, scan: &mut Enumeration, message: &wire::Request<'_>) -> Result<(), Status> {
    let again = message.flags & (wire::FLAG_RESTART_SCANS | wire::FLAG_REOPEN) != 0;
    if scan.listing.is_some() && !again {
        return Ok(());
    }
    let text = message.pattern.decode().map_err(|_| Status::OBJECT_NAME_INVALID)?;
    if scan.pattern.is_none() || !text.is_empty() {
        scan.pattern = Some(Pattern::new(&text).ok_or(Status::OBJECT_NAME_INVALID)?);
    }
    (scan.pending, scan.found) = (None, false);
    match &mut scan.listing {
        Some(listing) => listing.rewind(),
        None => {
            scan.listing = Some(open.file.list()?);
            Ok(())
        }
    }
}

/// The next name that the pattern matches.
fn next(scan: &mut Enumeration) -> Result<Option<DirEntry>, Status> {
    if let Some(entry) = scan.pending.take() {
        return Ok(Some(entry));
    }
    let Some(listing) = &mut scan.listing else { return Ok(None) };
    while let Some(entry) = listing.next()? {
        if scan.pattern.as_ref().is_none_or(|pattern| pattern.matches(&entry.name)) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn wire_entry(entry: &DirEntry) -> Entry<'_> {
    Entry {
        index: 0, // names have no stable positions
        basic: basic_of(&entry.metadata),
        end_of_file: entry.metadata.size,
        allocation_size: entry.metadata.allocation,
        ea_size: entry.metadata.ea_size,
        reparse_tag: entry.metadata.reparse_tag,
        file_id: entry.metadata.file,
        name: &entry.name,
        short_name: "",
    }
}
