//! Seconds since 1970 and calendar dates, in UTC.
//!
//! Days are counted from 1 March of year 0, so that a leap day is the last of its year.

const DAY: i64 = 86_400;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const ERA: i64 = 146_097;

/// A time as the clock's registers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    year: i64,
}

impl Date {
    /// Second, minute, hour, weekday, day, month, year, century.
    pub(super) const REGISTERS: [u8; 8] = [0, 2, 4, 6, 7, 8, 9, super::CENTURY];

    pub(super) fn of_seconds(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let shifted = days + EPOCH;
        let (era, of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // March is 0. Five months from there have 153 days, always.
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self {
            second: (rest % 60) as u8,
            minute: (rest / 60 % 60) as u8,
            hour: (rest / 3600) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            day: day as u8,
            month: month as u8,
            year: era * 400 + year_of_era + carry,
        }
    }

    pub(super) fn seconds(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let month = (i64::from(self.month) + 9) % 12;
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let days = era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - EPOCH;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// What a register holds, as a number.
    pub(super) fn register(self, index: u8) -> Option<u8> {
        Some(match index {
            0 => self.second,
            2 => self.minute,
            4 => self.hour,
            6 => self.weekday,
            7 => self.day,
            8 => self.month,
            9 => self.year.rem_euclid(100) as u8,
            super::CENTURY => (self.year / 100).rem_euclid(100) as u8,
            _ => return None,
        })
    }

    /// A date of registers. Whatever they hold, it is some date.
    pub(super) fn of_registers(register: impl Fn(u8) -> u8) -> Self {
        Self {
            second: register(0),
            minute: register(2),
            hour: register(4),
            weekday: register(6),
            day: register(7),
            month: register(8),
            year: i64::from(register(super::CENTURY)) * 100 + i64::from(register(9)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts days one by one, as a child would.
    #[test]
    fn each_day_of_500_years_is_the_one_after_the_day_before() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day, mut weekday) = (1970, 1, 1, 5);
        for days in 0..366 * 500 {
            let date = Date::of_seconds(days * DAY + 3661);
            assert_eq!((date.year, date.month, date.day, date.weekday), (year, month, day, weekday));
            assert_eq!((date.hour, date.minute, date.second), (1, 1, 1));
            assert_eq!(date.seconds(), days * DAY + 3661);
            let length = match month {
                2 => 28 + u8::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (day, weekday) = (day + 1, weekday % 7 + 1);
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
