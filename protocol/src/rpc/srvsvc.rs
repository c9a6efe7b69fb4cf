//! The operations of srvsvc (MS-SRVS 3.1.4) that clients ask a file server. What only an administrator of a Windows server
//! may list (its connections, files, sessions, transports) is refused as there to everybody else.

use super::ndr::{Decoder, Encoder};
use super::service::{
    ACCESS_DENIED, INVALID_LEVEL, PLATFORM_NT, Provider, ShareInfo, VERSION, done, refused,
};
use crate::codec::DecodeError;

/// ERROR_INVALID_PARAMETER.
const INVALID_PARAMETER: u32 = 87;
/// ERROR_INVALID_NAME.
const INVALID_NAME: u32 = 123;
/// NERR_NetNameNotFound.
const SHARE_NOT_FOUND: u32 = 2310;
/// NERR_DeviceNotShared.
const DEVICE_NOT_SHARED: u32 = 2311;
/// SV_TYPE_WORKSTATION, SV_TYPE_SERVER and SV_TYPE_NT (MS-SRVS 2.2.2.7).
const SERVER_TYPE: u32 = 0x0000_1003;
/// No limit of uses (SHI_USES_UNLIMITED).
const UNLIMITED: u32 = u32::MAX;
/// The bits of a share's type that tell what it is, and those of a disk (MS-SRVS 2.2.2.4).
const KIND_MASK: u32 = 0xFF;
const KIND_DISK: u32 = 0;
/// NAMETYPE_SHARE of NetrServerValidateName (MS-SRVS 2.2.2.10).
const NAME_TYPE_SHARE: u32 = 9;
/// The longest share name (MS-SRVS 2.2.4.23).
const SHARE_NAME_MAX: usize = 80;
/// What no share's name may hold (MS-SRVS 3.1.4.8).
const SHARE_NAME_FORBIDDEN: &str = "\"\\/[]:|<>+=;,*?";

/// The operations that are there.
pub(super) const OPERATIONS: &[u16] = &[8, 9, 12, 15, 16, 20, 21, 23, 26, 28, 33, 36];

/// Runs an operation whose ServerName has been read.
pub(super) fn call(
    operation: u16,
    stub: &mut Decoder<'_>,
    provider: &dyn Provider,
) -> Result<Option<Vec<u8>>, DecodeError> {
    match operation {
        8 => denied_enum(stub, 1),
        9 | 12 => denied_enum(stub, 2),
        15 => share_enum(stub, provider, &[0, 1, 2, 501, 502]),
        16 => share_get_info(stub, provider),
        20 => share_check(stub, provider),
        21 => server_get_info(stub, provider),
        23 => disk_enum(stub),
        26 => denied_enum(stub, 0),
        28 => Ok(time_of_day(provider)),
        33 => name_validate(stub),
        // NetrShareEnumSticky knows no level 501 (MS-SRVS 3.1.4.9).
        36 => share_enum(stub, provider, &[0, 1, 2, 502]),
        _ => return Ok(None),
    }
    .map(Some)
}

/// The path that a share is said to have: a server's real ones are nobody's business.
fn local_path(share: &ShareInfo) -> String {
    if share.kind & KIND_MASK == KIND_DISK { format!("C:\\{}", share.name) } else { String::new() }
}

/// The members of SHARE_INFO_0, 1, 2, 501, 502 and 1005 (MS-SRVS 2.2.4.22 to 2.2.4.29); false for another level.
fn put_share(out: &mut Encoder, level: u32, share: &ShareInfo) -> bool {
    if level == 1005 {
        out.u32(0); // no DFS, no caching flags
        return true;
    }
    out.string_pointer(&share.name);
    if level == 0 {
        return true;
    }
    out.u32(share.kind);
    out.string_pointer(&share.remark);
    match level {
        1 => {}
        501 => out.u32(0),
        2 | 502 => {
            out.u32(0); // permissions: unused
            out.u32(UNLIMITED);
            out.u32(0); // current uses
            out.string_pointer(&local_path(share));
            out.null(); // no password
            if level == 502 {
                out.u32(0); // no security descriptor
                out.null();
            }
        }
        _ => return false,
    }
    true
}

/// NetrShareEnum (MS-SRVS 3.1.4.8): everything at once, whatever the preferred length.
/// `levels` are those that the operation knows.
fn share_enum(
    stub: &mut Decoder<'_>,
    provider: &dyn Provider,
    levels: &[u32],
) -> Result<Vec<u8>, DecodeError> {
    let (level, _discriminant) = (stub.u32()?, stub.u32()?);
    let shares = provider.shares();
    let known = levels.contains(&level);
    let mut out = Encoder::default();
    out.u32(level);
    out.u32(level);
    out.pointer();
    let listed: &[ShareInfo] = if known { &shares } else { &[] };
    out.u32(listed.len() as u32);
    if known {
        out.pointer();
        out.u32(listed.len() as u32);
    } else {
        out.null();
    }
    for share in listed {
        put_share(&mut out, level, share);
    }
    out.flush();
    out.u32(listed.len() as u32); // TotalEntries
    out.null(); // ResumeHandle: there is no more
    out.u32(if known { 0 } else { INVALID_LEVEL });
    Ok(out.finish())
}

/// NetrShareGetInfo (MS-SRVS 3.1.4.10).
fn share_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let name = stub.string()?;
    let level = stub.u32()?;
    let shares = provider.shares();
    let Some(share) = shares.iter().find(|share| share.name.to_lowercase() == name.to_lowercase()) else {
        return Ok(refused(level, SHARE_NOT_FOUND));
    };
    let mut out = Encoder::default();
    out.u32(level);
    out.pointer();
    if !put_share(&mut out, level, share) {
        return Ok(refused(level, INVALID_LEVEL));
    }
    Ok(done(out))
}

/// NetrServerGetInfo (MS-SRVS 3.1.4.17): SERVER_INFO_100, 101, 102 (2.2.4.40 to 2.2.4.42).
fn server_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let level = stub.u32()?;
    if !matches!(level, 100..=102) {
        return Ok(refused(level, INVALID_LEVEL));
    }
    let mut out = Encoder::default();
    out.u32(level);
    out.pointer();
    out.u32(PLATFORM_NT);
    out.string_pointer(&provider.server_name());
    if level > 100 {
        out.u32(VERSION.0);
        out.u32(VERSION.1);
        out.u32(SERVER_TYPE);
        out.string_pointer(&provider.comment());
    }
    if level == 102 {
        out.u32(UNLIMITED); // users
        out.u32(15); // minutes to the disconnection of an idle session
        [0, 240, 3000, 0].into_iter().for_each(|value| out.u32(value)); // visible; announce, delta; licences
        out.string_pointer("");
    }
    Ok(done(out))
}

/// NetrShareCheck (MS-SRVS 3.1.4.12): whether a path is shared, and as what.
fn share_check(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let path = stub.string()?;
    let shares = provider.shares();
    let found = shares.iter().find(|share| local_path(share).eq_ignore_ascii_case(&path));
    let mut out = Encoder::default();
    out.u32(found.map_or(0, |share| share.kind));
    out.u32(if found.is_some() { 0 } else { DEVICE_NOT_SHARED });
    Ok(out.finish())
}

/// NetrConnectionEnum, NetrFileEnum, NetrSessionEnum, NetrServerTransportEnum (MS-SRVS 3.1.4.1, 3.1.4.2, 3.1.4.5, 3.1.4.22): an
/// empty container of the level that was asked for. `names` optional names stand before it.
fn denied_enum(stub: &mut Decoder<'_>, names: usize) -> Result<Vec<u8>, DecodeError> {
    for _ in 0..names {
        stub.unique_string()?;
    }
    let level = stub.u32()?;
    let mut out = Encoder::default();
    out.u32(level);
    out.u32(level);
    out.pointer();
    out.u32(0); // EntriesRead
    out.null(); // Buffer
    out.u32(0); // TotalEntries
    out.null(); // ResumeHandle
    out.u32(ACCESS_DENIED);
    Ok(out.finish())
}

/// NetrServerDiskEnum (MS-SRVS 3.1.4.19): the drive that [`local_path`] names.
fn disk_enum(stub: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
    let level = stub.u32()?;
    let known = level == 0;
    let mut out = Encoder::default();
    out.u32(u32::from(known)); // EntriesRead
    if known {
        out.pointer();
        [1, 0, 1].into_iter().for_each(|count| out.u32(count)); // a conformant varying array of one
        out.fixed_string("C:");
    } else {
        out.null();
    }
    out.u32(u32::from(known)); // TotalEntries
    out.null(); // ResumeHandle
    out.u32(if known { 0 } else { INVALID_LEVEL });
    Ok(out.finish())
}

/// NetrRemoteTOD (MS-SRVS 3.1.4.21): TIME_OF_DAY_INFO (2.2.4.105), in UTC.
fn time_of_day(provider: &dyn Provider) -> Vec<u8> {
    let now = provider.now();
    let (seconds, hundredths) = (now.as_secs(), now.subsec_millis() / 10);
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let mut out = Encoder::default();
    out.pointer();
    let in_day = seconds % 86_400;
    for value in [
        seconds,
        now.as_millis() as u64 & u64::from(u32::MAX),
        in_day / 3600,
        in_day / 60 % 60,
        in_day % 60,
        u64::from(hundredths),
        0,   // minutes west of UTC
        310, // clock ticks of 0.1 ms
        day,
        month,
        year,
        (days + 4) % 7, // 1970-01-01 was a Thursday
    ] {
        out.u32(value as u32);
    }
    done(out)
}

/// Year, month, day of a day counted from 1970-01-01. The year is taken to begin in March, so that the leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, in_era) = (days / 146_097, days % 146_097); // 400 years
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// NetrServerValidateName as NetprNameValidate (MS-SRVS 3.1.4.28), for names of shares.
fn name_validate(stub: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
    let name = stub.string()?;
    let (kind, _flags) = (stub.u32()?, stub.u32()?);
    let wrong = |c: char| c.is_control() || SHARE_NAME_FORBIDDEN.contains(c);
    let mut out = Encoder::default();
    out.u32(match kind {
        NAME_TYPE_SHARE
            if name.is_empty() || name.chars().count() > SHARE_NAME_MAX || name.contains(wrong) =>
        {
            INVALID_NAME
        }
        NAME_TYPE_SHARE => 0,
        _ => INVALID_PARAMETER,
    });
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_become_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (20_782, (2026, 11, 25)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected, "day {days}");
        }
    }
}
