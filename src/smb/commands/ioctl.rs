//! IOCTL (MS-SMB2 3.3.5.15): the control codes that file servers are asked for.

use std::net::IpAddr;

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::fscc::fsctl::{self, code};
use smb_proto::msg::FileId;
use smb_proto::msg::change_notify::filter;
use smb_proto::msg::ioctl::{self as wire, validate_negotiate};
use smb_proto::msg::negotiate::DIALECT_210;

use super::{copy_chunk, open_of};
use crate::smb::durable::granted_resilient;
use crate::smb::open::locked;
use crate::smb::request::{Failure, Outcome, Reply, Request};
use crate::smb::server::{PAYLOAD_BYTES_MAX, ShareKind};

/// Ranges in one answer to QUERY_ALLOCATED_RANGES: 64 KiB of them.
const RANGES_MAX: usize = 4096;

/// LinkSpeed in bits per second: the same for all, since clients only compare them.
const LINK_SPEED: u64 = 1_000_000_000;

/// Handles an IOCTL.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(
        (message.input.len() as u64)
            .max(u64::from(message.max_input_response) + u64::from(message.max_output_response)),
    )?;
    if message.flags & wire::FLAG_IS_FSCTL == 0 {
        return Err(Status::NOT_SUPPORTED.into());
    }
    if message.max_output_response.max(message.max_input_response) > PAYLOAD_BYTES_MAX {
        return Err(Status::INVALID_PARAMETER.into());
    }
    // Codes about the server and not about a file (3.3.5.15).
    let fileless = matches!(
        message.ctl_code,
        code::VALIDATE_NEGOTIATE_INFO
            | code::DFS_GET_REFERRALS
            | code::DFS_GET_REFERRALS_EX
            | code::QUERY_NETWORK_INTERFACE_INFO
            | code::PIPE_WAIT
    );
    if fileless && message.file_id != FileId::ANY {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let (status, output) = match message.ctl_code {
        code::VALIDATE_NEGOTIATE_INFO => (Status::SUCCESS, validate(request, &message)?),
        // No DFS here (3.3.5.15.2).
        code::DFS_GET_REFERRALS | code::DFS_GET_REFERRALS_EX => return Err(Status::FS_DRIVER_REQUIRED.into()),
        code::QUERY_NETWORK_INTERFACE_INFO => (Status::SUCCESS, interfaces(request, &message)?),
        code::PIPE_WAIT if request.tree.entry.kind == ShareKind::Pipe => (Status::SUCCESS, Vec::new()),
        code::PIPE_TRANSCEIVE => transceive(request, &message)?,
        code::SET_SPARSE | code::SET_ZERO_DATA => (Status::SUCCESS, sparse(request, &message)?),
        code::QUERY_ALLOCATED_RANGES => allocated_ranges(request, &message)?,
        code::LMR_REQUEST_RESILIENCY => (Status::SUCCESS, resiliency(request, &message)?),
        code::SRV_REQUEST_RESUME_KEY => (Status::SUCCESS, copy_chunk::resume_key(request, &message)?),
        code::SRV_COPYCHUNK | code::SRV_COPYCHUNK_WRITE => copy_chunk::copy(request, &message)?,
        code::GET_REPARSE_POINT => {
            open_of(request, message.file_id)?;
            return Err(Status::NOT_A_REPARSE_POINT.into()); // no link is ever shown
        }
        code::CREATE_OR_GET_OBJECT_ID | code::GET_OBJECT_ID => {
            (Status::SUCCESS, object_id(request, &message)?)
        }
        code::GET_COMPRESSION | code::SET_COMPRESSION => (Status::SUCCESS, compression(request, &message)?),
        _ => {
            if message.file_id != FileId::ANY {
                open_of(request, message.file_id)?;
            }
            return Err(Status::INVALID_DEVICE_REQUEST.into());
        }
    };
    let file_id = request.resolve(message.file_id).unwrap_or(message.file_id);
    let response = wire::Response { ctl_code: message.ctl_code, file_id, output: &output };
    Ok(Reply::with_status(status, |out| response.encode(out)))
}

/// FSCTL_VALIDATE_NEGOTIATE_INFO (3.3.5.15.12): any difference cuts the connection.
fn validate(request: &Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let input = validate_negotiate::Request::decode(message.input).map_err(|_| Failure::Disconnect)?;
    let output = request.connection.validate_negotiate(&input).ok_or(Failure::Disconnect)?;
    if output.len() > message.max_output_response as usize {
        return Err(Failure::Disconnect);
    }
    Ok(output)
}

/// FSCTL_QUERY_NETWORK_INTERFACE_INFO (3.3.5.15.11): where further channels can be opened.
fn interfaces(request: &Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let settings = &request.server.settings;
    let Some(configured) = settings.multichannel.as_ref() else {
        return Err(Status::NOT_SUPPORTED.into());
    };
    let mut addresses = configured.clone();
    if let Some(local) = request.connection.local.get().map(IpAddr::to_canonical)
        && !addresses.contains(&local)
    {
        addresses.insert(0, local);
    }
    let list: Vec<_> = (1..)
        .zip(addresses)
        .map(|(index, address)| fsctl::Interface {
            index,
            capability: fsctl::INTERFACE_RSS_CAPABLE,
            link_speed: LINK_SPEED,
            address,
        })
        .collect();
    let mut output = Vec::new();
    fsctl::encode_interfaces(&list, &mut output);
    if output.len() > message.max_output_response as usize {
        return Err(Status::BUFFER_TOO_SMALL.into());
    }
    Ok(output)
}

/// FSCTL_PIPE_TRANSCEIVE (3.3.5.15.10): a write and the read of its answer. What the client has no room for stays in the pipe for
/// READ: BUFFER_OVERFLOW.
fn transceive(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<(Status, Vec<u8>), Failure> {
    let open = open_of(request, message.file_id)?;
    if request.tree.entry.kind != ShareKind::Pipe {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    open.require(access::READ_DATA)?;
    open.require(access::WRITE_DATA | access::APPEND_DATA)?;
    open.file.write_at(message.input, 0, false)?;
    let mut output = vec![0; message.max_output_response as usize];
    let count = open.file.read_at(&mut output, 0)?;
    output.truncate(count);
    let more = open.file.metadata().is_ok_and(|metadata| metadata.size > 0);
    Ok((if more { Status::BUFFER_OVERFLOW } else { Status::SUCCESS }, output))
}

/// FSCTL_SET_SPARSE (MS-FSA 2.1.5.9.34) and FSCTL_SET_ZERO_DATA (2.1.5.9.37).
fn sparse(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let open = open_of(request, message.file_id)?;
    if open.file.is_directory() {
        return Err(Status::INVALID_PARAMETER.into());
    }
    if message.ctl_code == code::SET_SPARSE {
        open.require(access::WRITE_DATA | access::APPEND_DATA | access::WRITE_ATTRIBUTES)?;
        open.file.set_sparse(fsctl::decode_set_sparse(message.input))?;
        request.server.told_modified(&open, filter::ATTRIBUTES);
        return Ok(Vec::new());
    }
    open.require(access::WRITE_DATA)?;
    let range = fsctl::decode_zero_data(message.input)?;
    open.entry.check_io(open.id.volatile, range.offset, range.length, true)?;
    request.server.changing(&open);
    open.file.zero_range(range.offset, range.offset + range.length)?;
    request.server.told_written(&open);
    Ok(Vec::new())
}

/// FSCTL_LMR_REQUEST_RESILIENCY (3.3.5.15.9): the open waits for its client whatever it caches.
fn resiliency(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    if request.connection.dialect() < DIALECT_210 {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    let asked = fsctl::decode_resiliency(message.input)?;
    let time = granted_resilient(asked)?;
    let open = open_of(request, message.file_id)?;
    if request.tree.entry.kind == ShareKind::Pipe || open.file.is_directory() {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    locked(&open.life).resilient = Some(time);
    Ok(Vec::new())
}

/// FSCTL_CREATE_OR_GET_OBJECT_ID (MS-FSA 2.1.5.9.1): the file's identity, which is there from the start and stays as long as
/// the file does.
fn object_id(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let open = open_of(request, message.file_id)?;
    let key = &open.entry.key;
    let (mut object, mut volume) = ([0; 16], [0; 16]);
    object[..8].copy_from_slice(&key.file.to_le_bytes());
    volume[..8].copy_from_slice(&key.volume.to_le_bytes());
    let mut output = Vec::with_capacity(64);
    fsctl::encode_object_id(&object, &volume, &mut output);
    if output.len() > message.max_output_response as usize {
        return Err(Status::BUFFER_TOO_SMALL.into());
    }
    Ok(output)
}

/// FSCTL_GET_COMPRESSION and FSCTL_SET_COMPRESSION (MS-FSA 2.1.5.9.9, 2.1.5.9.30): nothing is compressed, and nothing can be.
fn compression(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let open = open_of(request, message.file_id)?;
    if message.ctl_code == code::GET_COMPRESSION {
        if message.max_output_response < 2 {
            return Err(Status::BUFFER_TOO_SMALL.into());
        }
        return Ok(fsctl::COMPRESSION_NONE.to_le_bytes().to_vec());
    }
    open.require(access::WRITE_DATA)?;
    match fsctl::decode_compression(message.input)? {
        fsctl::COMPRESSION_NONE => Ok(Vec::new()),
        _ => Err(Status::NOT_SUPPORTED.into()),
    }
}

/// FSCTL_QUERY_ALLOCATED_RANGES (MS-FSA 2.1.5.9.21).
fn allocated_ranges(
    request: &mut Request<'_>,
    message: &wire::Request<'_>,
) -> Result<(Status, Vec<u8>), Failure> {
    let open = open_of(request, message.file_id)?;
    open.require(access::READ_DATA)?;
    let asked = fsctl::decode_allocated_ranges(message.input)?;
    let room = message.max_output_response as usize;
    let end = asked.offset + asked.length;
    let (ranges, more) = open.file.allocated_ranges(asked.offset, end, RANGES_MAX)?;
    if room < 16 && !ranges.is_empty() {
        return Err(Status::BUFFER_TOO_SMALL.into());
    }
    let ranges: Vec<_> = ranges.into_iter().map(|(offset, length)| fsctl::Range { offset, length }).collect();
    let mut output = Vec::new();
    let all = fsctl::encode_allocated_ranges(&ranges, room, &mut output);
    Ok((if all && !more { Status::SUCCESS } else { Status::BUFFER_OVERFLOW }, output))
}
