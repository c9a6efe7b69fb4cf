//! Answers on their way out: joined as the parts of a compound, signed or sealed, with the frame's length in front.

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::crypto::encrypt::TRANSFORM_LEN;
use smb_proto::frame::{FRAME_HEADER_LEN, encode_length};
use smb_proto::header::HEADER_LEN;
use smb_proto::msg::{error, read};

use super::buffer::Buffer;
use super::dispatch::Output;
use super::job::Job;
use super::server::Server;
use super::session::Channel;

pub(super) struct Answer {
    pub(super) message: Buffer,
    pub(super) session: Option<Arc<Channel>>,
    pub(super) sign: bool,
}

/// A READ's headers in front of its payload.
pub(super) fn data(status: Status, mut payload: Buffer) -> (Status, Buffer) {
    let len = payload.bytes().len() as u32;
    let mut fixed = Vec::with_capacity(read::RESPONSE_FIXED_LEN);
    read::encode_response(&mut fixed, read::RESPONSE_DATA_OFFSET, len);
    if let Some(room) = payload.prepend(read::RESPONSE_FIXED_LEN) {
        room.copy_from_slice(&fixed);
    }
    if payload.prepend(HEADER_LEN).is_none() {
        // Not from `Pool::take_payload`: a handler's mistake, which must not become a torn frame.
        let mut message = vec![0; HEADER_LEN];
        error::Response::default().encode(&mut message);
        return (Status::INTERNAL_ERROR, Buffer::from_vec(message));
    }
    (status, payload)
}

/// Joins the answers of a frame, signs each or seals the whole, and puts the length in front.
pub(super) fn finish(server: &Server, job: &Job, answers: Vec<Answer>, output: &mut Output) {
    if !job.mute {
        join(server, job.sealed_by.as_ref(), answers, output);
    }
}

/// The same, for requests that were encrypted with the key of `sealer`, or not at all.
pub(super) fn join(
    server: &Server,
    sealer: Option<&Arc<Channel>>,
    mut answers: Vec<Answer>,
    output: &mut Output,
) {
    if answers.is_empty() {
        return;
    }
    let room = FRAME_HEADER_LEN + if sealer.is_some() { TRANSFORM_LEN } else { 0 };
    let last = answers.len() - 1;
    for (index, answer) in answers.iter_mut().enumerate() {
        if last > 0 {
            // The last part too: Windows and Samba fill it up, and their clients' tests look.
            let mut padded = answer.message.bytes().to_vec();
            padded.resize(padded.len().next_multiple_of(8), 0);
            if index < last {
                let next = padded.len() as u32;
                padded[20..24].copy_from_slice(&next.to_le_bytes());
            }
            answer.message = Buffer::from_vec(padded);
        }
        if let (Some(session), true, None) = (&answer.session, answer.sign, sealer) {
            session.sign(answer.message.bytes_mut());
        }
    }
    let single = if last == 0 { answers.pop().map(|answer| answer.message) } else { None };
    let mut frame = match single {
        Some(mut message) if message.headroom() >= room => {
            let _ = message.prepend(room); // the room was just checked
            message
        }
        single => {
            let parts: Vec<Buffer> =
                single.into_iter().chain(answers.into_iter().map(|answer| answer.message)).collect();
            let mut frame =
                server.pool.take(room + parts.iter().map(|part| part.bytes().len()).sum::<usize>());
            let mut at = room;
            for part in &parts {
                frame.bytes_mut()[at..at + part.bytes().len()].copy_from_slice(part.bytes());
                at += part.bytes().len();
            }
            frame
        }
    };
    if let Some(session) = sealer
        && session.keys.seal(&mut frame.bytes_mut()[FRAME_HEADER_LEN..], session.id).is_err()
    {
        output.disconnect = true;
        return;
    }
    match encode_length(frame.bytes().len() - FRAME_HEADER_LEN) {
        Ok(length) => frame.bytes_mut()[..FRAME_HEADER_LEN].copy_from_slice(&length),
        Err(_) => output.disconnect = true,
    }
    output.frames.push(frame);
}
