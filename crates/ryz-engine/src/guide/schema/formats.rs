//! What `format` says of a string, and patterns of libraries that no automaton can match as they are written.

/// What becomes of a format.
pub enum Format {
    /// A pattern says the same.
    Pattern(&'static str),
    /// It says nothing about the text that could be enforced, nor does it want to.
    Annotation,
    Unknown,
}

/// Characters that were emoji in every version of Unicode that knows them.
const EMOJI: &str = "^[\\u{1F300}-\\u{1F320}\\u{1F330}-\\u{1F335}\\u{1F400}-\\u{1F43E}\\u{1F600}-\\u{1F64F}\\u{1F680}-\\u{1F6C5}]+$";
const BASE64: &str = "^(?:[0-9A-Za-z+/]{4})*(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?$";
/// A day of the calendar.
macro_rules! date {
    () => {
        concat!(
            "(?:(?:[0-9]{2}(?:[2468][048]|[13579][26]|0[48])|(?:[02468][048]|[13579][26])00)-02-29",
            "|[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
            "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])))"
        )
    };
}

macro_rules! ipv4 {
    () => {
        concat!(
            "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}",
            "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
        )
    };
}

macro_rules! whole {
    ($($part:expr),+) => {
        concat!("^", $($part),+, "$")
    };
}

/// Whether JSON schema itself has this format; the others belong to libraries, which put a pattern beside it that says all.
pub fn is_standard(name: &str) -> bool {
    [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "uri",
    ]
    .contains(&name)
}

/// What a format's name says.
pub fn lookup(name: &str) -> Format {
    Format::Pattern(match name {
        "date-time" => whole!(
            date!(),
            "T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
        ),
        "date" => whole!(date!()),
        "time" => whole!(
            "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
        ),
        "iso-time" => "^(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?$",
        "duration" => whole!(
            "P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)",
            "(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?",
            "|T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))"
        ),
        "email" | "idn-email" => whole!(
            "[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@",
            "(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\\.)+[A-Za-z]{2,24}"
        ),
        "hostname" | "idn-hostname" => whole!(
            "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?){0,3}"
        ),
        "ipv4" => whole!(ipv4!()),
        "cidrv4" => whole!(ipv4!(), "/(?:[12]?[0-9]|3[0-2])"),
        "ipv6" => IPV6,
        "cidrv6" => CIDRV6,
        "uuid" | "guid" => {
            "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
        }
        "uri" | "url" | "iri" => whole!(
            "[a-zA-Z][a-zA-Z0-9+.-]*://(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\\.)*",
            "[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?::[0-9]{1,4})?",
            "(?:/(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})*)*",
            "(?:\\?(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*)?",
            "(?:#(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*)?"
        ),
        "json-pointer" => "^(?:/(?:[^~/]|~[01])*)*$",
        "base64" | "byte" => BASE64,
        "base64url" => "^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?$",
        "jwt" => "^eyJ[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$",
        "cuid" => "^[cC][0-9a-z]{6,}$",
        "cuid2" => "^[a-z][0-9a-z]+$",
        "ulid" => "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        "nanoid" => "^[a-zA-Z0-9_-]{21}$",
        "xid" => "^[0-9a-v]{20}$",
        "ksuid" => "^[A-Za-z0-9]{27}$",
        "emoji" => EMOJI,
        "e164" => "^\\+[1-9][0-9]{6,14}$",
        "hex" => "^[0-9a-fA-F]*$",
        "lowercase" => "^[^A-Z]*$",
        "uppercase" => "^[^a-z]*$",
        "unknown" | "password" | "binary" | "int32" | "int64" | "uint32" | "uint64" | "float"
        | "double" | "decimal" => {
            return Format::Annotation;
        }
        _ => return Format::Unknown,
    })
}

const IPV6: &str = "^(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:){1,7}:|(?:[0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:){1,5}(?::[0-9a-fA-F]{1,4}){1,2}|(?:[0-9a-fA-F]{1,4}:){1,4}(?::[0-9a-fA-F]{1,4}){1,3}|(?:[0-9a-fA-F]{1,4}:){1,3}(?::[0-9a-fA-F]{1,4}){1,4}|(?:[0-9a-fA-F]{1,4}:){1,2}(?::[0-9a-fA-F]{1,4}){1,5}|[0-9a-fA-F]{1,4}:(?::[0-9a-fA-F]{1,4}){1,6}|:(?:(?::[0-9a-fA-F]{1,4}){1,7}|:))$";
const CIDRV6: &str = "^(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:){1,7}:|(?:[0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4})/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])$";

/// A pattern that can be enforced and matches nothing that this one does not, for those of libraries that need it.
pub fn equivalent(pattern: &str) -> Option<&'static str> {
    // valibot's emoji looks ahead within a repetition.
    let valibot_emoji = pattern.contains("\\p{Emoji_Modifier_Base}")
        && pattern.contains("(?![\\p{Emoji_Modifier_Base}");
    if valibot_emoji {
        return Some("^[\\u{1F600}-\\u{1F64F}]$");
    }
    // The classes of zod's emoji differ from one version of Unicode to the next.
    if pattern.contains("\\p{Extended_Pictographic}") && pattern.contains("\\p{Emoji_Component}") {
        return Some(EMOJI);
    }
    // arktype's dates refer back to which separator came first.
    let arktype_date = pattern.starts_with("^([+-]?\\d{4}(?!\\d{2}\\b))((-?)((0[1-9]|1[0-2])(\\3");
    if arktype_date {
        return Some(
            "^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])(?:T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,3})?Z)?$",
        );
    }
    None
}
