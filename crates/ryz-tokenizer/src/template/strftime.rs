//! `strftime_now`: the date as templates ask for it, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment in UTC, taken apart.
struct Moment {
    seconds: i64,
    micros: u32,
    year: i64,
    month: i64,
    day: i64,
    /// From Sunday.
    weekday: i64,
    /// From 1.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Formats a time by the directives of glibc's `strftime`; unknown ones stay as they are.
pub(super) fn format(time: SystemTime, format: &str) -> String {
    let (seconds, micros) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_micros()),
        Err(before) => (-(before.duration().as_secs() as i64), 0),
    };
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    Moment {
        seconds,
        micros,
        year,
        month,
        day,
        weekday: (days + 4).rem_euclid(7),
        day_of_year: days - days_before(year, 1, 1) + 1,
        hour: second / 3600,
        minute: second / 60 % 60,
        second: second % 60,
    }
    .format(format)
}

impl Moment {
    fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format;
        while let Some(start) = rest.find('%') {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            let flag = |c: char| matches!(c, '-' | '_' | '0' | '^' | '#');
            let directive = rest[1..].trim_start_matches(flag);
            let flags = &rest[1..rest.len() - directive.len()];
            let code = directive.chars().next();
            let length = 1 + flags.len() + code.map_or(0, char::len_utf8);
            match code.and_then(|code| self.directive(code, flags)) {
                Some(text) => out.push_str(&text),
                None => out.push_str(&rest[..length]),
            }
            rest = &rest[length..];
        }
        out + rest
    }

    fn directive(&self, code: char, flags: &str) -> Option<String> {
        let number = |number: i64, width: usize| {
            let pad = flags.chars().rev().find_map(|flag| match flag {
                '-' => Some(None),
                '_' => Some(Some(' ')),
                '0' => Some(Some('0')),
                _ => None,
            });
            match pad.unwrap_or(Some(default_pad(code))) {
                None => number.to_string(),
                Some(' ') => format!("{number:width$}"),
                Some(_) => format!("{number:0width$}"),
            }
        };
        let hour12 = (self.hour + 11) % 12 + 1;
        let month = MONTHS[self.month as usize - 1];
        let weekday = DAYS[self.weekday as usize];
        let (iso_year, iso_week) = self.iso_week();
        // Weeks that begin on that day of the week; the days before the first are in week 0.
        let week = |first: i64| (self.day_of_year + 6 - (self.weekday - first).rem_euclid(7)) / 7;
        let text = match code {
            'Y' => self.year.to_string(),
            'C' => number(self.year.div_euclid(100), 2),
            'y' => number(self.year.rem_euclid(100), 2),
            'G' => iso_year.to_string(),
            'g' => number(iso_year.rem_euclid(100), 2),
            'm' => number(self.month, 2),
            'd' | 'e' => number(self.day, 2),
            'j' => number(self.day_of_year, 3),
            'U' => number(week(0), 2),
            'W' => number(week(1), 2),
            'V' => number(iso_week, 2),
            'w' => self.weekday.to_string(),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' | 'k' => number(self.hour, 2),
            'I' | 'l' => number(hour12, 2),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'f' => format!("{:06}", self.micros),
            'p' if flags.contains('#') => self.half().to_lowercase(),
            'p' => self.half().to_owned(),
            'P' => self.half().to_lowercase(),
            's' => self.seconds.to_string(),
            // The time that transformers formats knows no zone.
            'z' | 'Z' => String::new(),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'F' => self.format("%Y-%m-%d"),
            'R' => self.format("%H:%M"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'r' => self.format("%I:%M:%S %p"),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        let upper = flags.contains('^') || flags.contains('#') && code != 'p';
        Some(if upper { text.to_uppercase() } else { text })
    }

    fn half(&self) -> &'static str {
        if self.hour < 12 { "AM" } else { "PM" }
    }

    /// The year and number of the week that has this day's Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let monday_first = (self.weekday + 6) % 7;
        let thursday = self.day_of_year - monday_first + 3;
        let length = |year: i64| days_before(year + 1, 1, 1) - days_before(year, 1, 1);
        if thursday < 1 {
            let year = self.year - 1;
            (year, (thursday + length(year) - 1) / 7 + 1)
        } else if thursday > length(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, (thursday - 1) / 7 + 1)
        }
    }
}

/// What a directive's numbers are filled up with.
fn default_pad(code: char) -> char {
    if matches!(code, 'e' | 'k' | 'l') {
        ' '
    } else {
        '0'
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of one.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// The date of a day since 1970-01-01: the inverse of [`days_before`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_dates() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(
            format(at(0), "%a %d %b %Y %T %p %j"),
            "Thu 01 Jan 1970 00:00:00 AM 001"
        );
        assert_eq!(format(at(1_709_210_096), "%d %b %Y"), "29 Feb 2024");
        assert_eq!(
            format(at(1_735_689_599), "%A, %B %e %y %H:%M:%S %I %F %j %% %Q %"),
            "Tuesday, December 31 24 23:59:59 11 2024-12-31 366 % %Q %"
        );
    }

    #[test]
    fn weeks_and_flags() {
        let at = |days: u64| UNIX_EPOCH + Duration::from_secs(days * 86_400 + 32_703);
        assert_eq!(
            format(at(20_460), "%-d %_d %-m %^a %#p %-H"),
            "7  7 1 WED am 9"
        );
        assert_eq!(
            format(at(20_460), "%w %u %U %W %V %G|%Z|"),
            "3 3 01 01 02 2026||"
        );
        assert_eq!(format(at(16_801), "%G-%V %U %W %j"), "2015-53 00 00 001");
        assert_eq!(format(at(14_609), "%G-%V %U %W"), "2009-53 52 52");
    }

    #[test]
    fn dates_round_trip() {
        for days in (-200_000..200_000).step_by(7) {
            let (year, month, day) = civil(days);
            assert_eq!(days_before(year, month, day), days);
        }
    }
}
