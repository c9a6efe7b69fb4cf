//! QUERY_INFO (MS-SMB2 3.3.5.20): of a file, its volume, or its security.

use std::sync::atomic::Ordering;

use smb_proto::Status;
use smb_proto::fscc::security::part;
use smb_proto::fscc::{access, fs_info, info, stream};
use smb_proto::msg::negotiate::DIALECT_311;
use smb_proto::msg::query_info::{self as wire, info_type};

use super::{basic_of, extended, open_of};
use crate::smb::name;
use crate::smb::open::{Open, locked};
use crate::smb::request::{Failure, Outcome, Reply, Request};
use crate::smb::server::PAYLOAD_BYTES_MAX;
use crate::smb::share::Share;

/// The sector that volumes report: what VMFS and every client can work with.
const SECTOR_BYTES: u32 = 512;
/// Sectors per allocation unit: 4 KiB.
const SECTORS_PER_UNIT: u32 = 8;

/// Handles a QUERY_INFO.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(u64::from(message.output_buffer_length).max(message.input.len() as u64))?;
    let open = open_of(request, message.file_id)?;
    if message.output_buffer_length > PAYLOAD_BYTES_MAX {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let limit = message.output_buffer_length as usize;
    let (data, min) = match message.info_type {
        info_type::FILE if message.info_class == info::class::FULL_EA => {
            open.require(access::READ_EA)?;
            let (status, data) = extended::query(&open, &message, limit)?;
            return Ok(Reply::with_status(status, |out| wire::Response { data: &data }.encode(out)));
        }
        info_type::FILE
            if message.info_class == info::class::NORMALIZED_NAME
                && request.connection.dialect() < DIALECT_311 =>
        {
            return Err(Status::NOT_SUPPORTED.into()); // 3.3.5.20.1
        }
        info_type::FILE => file(&open, &message)?,
        info_type::FILESYSTEM => volume(request.tree.entry.share.as_ref(), &open, message.info_class)?,
        info_type::SECURITY => return security(&open, message.additional_information, limit),
        info_type::QUOTA => return Err(Status::NOT_SUPPORTED.into()),
        _ => return Err(Status::INVALID_PARAMETER.into()),
    };
    // Too little for the fixed part is a mismatch; what is cut behind it, a warning with data (3.3.5.20.1).
    if limit < min {
        return Err(Status::INFO_LENGTH_MISMATCH.into());
    }
    let status = if data.len() > limit { Status::BUFFER_OVERFLOW } else { Status::SUCCESS };
    let data = &data[..data.len().min(limit)];
    Ok(Reply::with_status(status, |out| wire::Response { data }.encode(out)))
}

/// The answer about a file and the least room that it needs (3.3.5.20.1).
fn file(open: &Open, message: &wire::Request<'_>) -> Result<(Vec<u8>, usize), Status> {
    let class = message.info_class;
    let min = info::min_len(class).ok_or(Status::INVALID_INFO_CLASS)?;
    let open_to_all = matches!(
        class,
        info::class::STANDARD
            | info::class::INTERNAL
            | info::class::EA
            | info::class::ACCESS
            | info::class::NAME
            | info::class::POSITION
            | info::class::MODE
            | info::class::ALIGNMENT
            | info::class::STREAM
            | info::class::COMPRESSION
            | info::class::NORMALIZED_NAME
            | info::class::ALTERNATE_NAME
    );
    if !open_to_all {
        open.require(access::READ_ATTRIBUTES)?;
    }
    let mut data = Vec::new();
    if class == info::class::STREAM {
        let streams = open.file.streams()?;
        let streams: Vec<_> = streams
            .iter()
            .map(|s| stream::Stream { name: &s.name, size: s.size, allocation_size: s.allocation })
            .collect();
        stream::encode(&streams, &mut data);
        return Ok((data, min));
    }
    let metadata = open.file.metadata()?;
    let position = open.position.load(Ordering::Relaxed);
    let mode = locked(&open.state).mode;
    let path = name::display(&open.file.path());
    let last = path.rsplit('\\').next().unwrap_or_default();
    let short_name = if name::is_short(last) { last } else { "" };
    let delete_pending = open.entry.delete_pending();
    let known = info::FileInfo {
        basic: basic_of(&metadata),
        allocation_size: metadata.allocation,
        end_of_file: metadata.size,
        links: metadata.links.saturating_sub(delete_pending.into()),
        delete_pending,
        directory: open.file.is_directory(),
        file_id: metadata.file,
        volume_serial: open.entry.key.volume,
        ea_size: metadata.ea_size,
        access: open.granted,
        position,
        mode,
        reparse_tag: metadata.reparse_tag,
        name: &path,
        short_name,
    };
    // No 8.3 names are made; a name that is one already is its own (MS-FSA 2.1.5.11.2).
    if class == info::class::ALTERNATE_NAME && short_name.is_empty() {
        return Err(Status::OBJECT_NAME_NOT_FOUND);
    }
    if info::encode(class, &known, &mut data) { Ok((data, min)) } else { Err(Status::INVALID_INFO_CLASS) }
}

/// The answer about a volume (3.3.5.20.2).
fn volume(share: &dyn Share, open: &Open, class: u8) -> Result<(Vec<u8>, usize), Status> {
    let min = fs_info::min_len(class).ok_or(Status::INVALID_INFO_CLASS)?;
    let (volume, traits) = (share.volume()?, share.traits());
    let mut object_id = [0; 16];
    object_id[..8].copy_from_slice(&open.entry.key.volume.to_le_bytes());
    let known = fs_info::Volume {
        creation_time: volume.created.0,
        serial: volume.serial,
        label: &volume.label,
        total_bytes: volume.total,
        available_bytes: volume.available,
        free_bytes: volume.free,
        sector_size: SECTOR_BYTES,
        sectors_per_unit: SECTORS_PER_UNIT,
        attributes: traits.attributes,
        max_name_len: traits.name_max,
        file_system: &traits.file_system,
        object_id,
    };
    let mut data = Vec::new();
    if fs_info::encode(class, &known, &mut data) { Ok((data, min)) } else { Err(Status::INVALID_INFO_CLASS) }
}

/// The security descriptor (3.3.5.20.3): too little room is BUFFER_TOO_SMALL, and ErrorData says how much it takes.
fn security(open: &Open, parts: u32, limit: usize) -> Outcome {
    let needs = [
        (part::OWNER | part::GROUP | part::DACL | part::LABEL, access::READ_CONTROL),
        (part::SACL, access::ACCESS_SYSTEM_SECURITY),
    ];
    for (_, needed) in needs.iter().filter(|(which, _)| parts & which != 0) {
        open.require(*needed)?;
    }
    let data = open.file.security(parts)?;
    if data.len() > limit {
        let needed = (data.len() as u32).to_le_bytes().to_vec();
        return Err(Failure::StatusWith(Status::BUFFER_TOO_SMALL, needed));
    }
    Ok(Reply::success(|out| wire::Response { data: &data }.encode(out)))
}
