//! Times between SMB (100 ns since 1601, MS-DTYP 2.3.3) and POSIX (seconds and nanoseconds since 1970).

use rustix::fs::{StatxTimestamp, Timespec, Timestamps, UTIME_OMIT};

use crate::smb::share::FileTime;

/// Seconds from 1601-01-01 to 1970-01-01.
const EPOCH_SECONDS: i64 = 11_644_473_600;
/// FILETIME ticks in a second.
const TICKS: i64 = 10_000_000;

/// A POSIX time as FILETIME, rounded down; what lies before 1601 or past the last FILETIME is clamped.
pub(super) fn from_posix(seconds: i64, nanoseconds: u32) -> FileTime {
    let ticks = seconds
        .saturating_add(EPOCH_SECONDS)
        .saturating_mul(TICKS)
        .saturating_add(i64::from(nanoseconds / 100));
    FileTime(u64::try_from(ticks).unwrap_or(0))
}

/// The clock that stamps files, read now.
pub(super) fn now() -> FileTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    from_posix(now.tv_sec, now.tv_nsec as u32)
}

/// The same from statx.
pub(super) fn from_statx(time: StatxTimestamp) -> FileTime {
    from_posix(time.tv_sec, time.tv_nsec)
}

/// A FILETIME as POSIX time. FILETIMEs are signed on the wire; the top bit never names a real time.
pub(super) fn to_posix(time: FileTime) -> Timespec {
    let ticks = i64::try_from(time.0).unwrap_or(i64::MAX);
    Timespec {
        tv_sec: ticks.div_euclid(TICKS) - EPOCH_SECONDS,
        tv_nsec: (ticks.rem_euclid(TICKS) * 100) as _,
    }
}

/// What `futimens` is told: a time that is `None` stays as it is.
pub(super) fn changes(accessed: Option<FileTime>, written: Option<FileTime>) -> Timestamps {
    const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    Timestamps {
        last_access: accessed.map_or(OMIT, to_posix),
        last_modification: written.map_or(OMIT, to_posix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_convert_both_ways() {
        assert_eq!(from_posix(0, 0).0, 116_444_736_000_000_000); // 1970-01-01, MS-DTYP
        for (seconds, nanoseconds) in
            [(0, 0), (-1, 999_999_900), (-2, 0), (1_700_000_000, 100), (15_032_385_535, 0)]
        {
            let back = to_posix(from_posix(seconds, nanoseconds));
            assert_eq!((back.tv_sec, back.tv_nsec as u32), (seconds, nanoseconds));
        }
        assert_eq!(from_posix(-20_000_000_000, 0).0, 0, "before 1601");
    }
}
