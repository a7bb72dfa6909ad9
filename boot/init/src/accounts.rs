//! The image's users and groups, changed as useradd(8) would: passwd, group, shadow and gshadow as tables of fields.

use crate::{
    config::{Group, User},
    failure::{Doing, Failure, Result, failed},
    place::{Owner, Root},
};

/// Longest of these files that is read.
const MAX_FILE: u64 = 8 << 20;
/// Numbers that are given to new users and groups (login.defs(5): UID_MIN, UID_MAX).
const NUMBERS: std::ops::RangeInclusive<u32> = 1000..=60_000;

/// One of the files, a line with its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table(Vec<Vec<String>>);

impl Table {
    fn parse(text: &str) -> Table {
        Table(text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect())
    }

    fn text(&self) -> String {
        self.0.iter().map(|fields| fields.join(":") + "\n").collect()
    }

    fn get(&self, name: &str) -> Option<&Vec<String>> {
        self.0.iter().find(|fields| fields.first().is_some_and(|first| first == name))
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        self.0.iter_mut().find(|fields| fields.first().is_some_and(|first| first == name))
    }

    /// Field `nth` of `name` as a number.
    fn number(&self, name: &str, nth: usize) -> Option<u32> {
        self.get(name)?.get(nth)?.parse().ok()
    }

    /// Who has a number in field `nth`.
    fn by_number(&self, number: u32, nth: usize) -> Option<&str> {
        let has = |fields: &&Vec<String>| fields.get(nth).is_some_and(|f| f.parse() == Ok(number));
        self.0.iter().find(has)?.first().map(String::as_str)
    }

    fn add(&mut self, fields: &[&str]) {
        self.0.push(fields.iter().map(|f| (*f).to_owned()).collect());
    }

    fn set(&mut self, name: &str, nth: usize, value: &str) {
        if let Some(field) = self.get_mut(name).and_then(|fields| fields.get_mut(nth)) {
            value.clone_into(field);
        }
    }

    /// Adds a member to the list in field `nth`.
    fn add_member(&mut self, group: &str, nth: usize, member: &str) {
        let Some(list) = self.get_mut(group).and_then(|fields| fields.get_mut(nth)) else { return };
        if !list.split(',').any(|m| m == member) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(member);
        }
    }
}

/// A file of the image, and how it is to be written back.
#[derive(Debug)]
struct Kept {
    path: &'static str,
    table: Table,
    before: Option<Table>,
    owner: Owner,
    mode: u32,
}

impl Kept {
    fn read(root: &Root, path: &'static str, mode: u32) -> Result<Kept> {
        let found = root.read(path, MAX_FILE)?;
        let (owner, mode) = found.as_ref().map_or((Owner::ROOT, mode), |(_, owner, mode)| (*owner, *mode));
        let before = found.map(|(text, ..)| Table::parse(&text));
        Ok(Kept { path, table: before.clone().unwrap_or_default(), before, owner, mode })
    }

    fn write(&self, root: &Root) -> Result<()> {
        if self.before.as_ref() == Some(&self.table) || (self.before.is_none() && self.table.0.is_empty()) {
            return Ok(());
        }
        root.write(self.path, self.table.text().as_bytes(), self.mode, self.owner)
    }
}

/// A user, as the files have it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number and that of its own group.
    pub owner: Owner,
    /// Its home.
    pub home: String,
    /// It was not there before.
    pub is_new: bool,
}

/// The users and groups of the new root.
#[derive(Debug)]
pub struct Accounts {
    passwd: Kept,
    group: Kept,
    shadow: Kept,
    gshadow: Kept,
}

impl Accounts {
    /// Reads the files; those that aren't there are empty.
    pub fn read(root: &Root) -> Result<Accounts> {
        Ok(Accounts {
            passwd: Kept::read(root, "/etc/passwd", 0o644)?,
            group: Kept::read(root, "/etc/group", 0o644)?,
            shadow: Kept::read(root, "/etc/shadow", 0o600)?,
            gshadow: Kept::read(root, "/etc/gshadow", 0o600)?,
        })
    }

    /// Writes back what changed.
    pub fn write(&self, root: &Root) -> Result<()> {
        [&self.group, &self.gshadow, &self.shadow, &self.passwd]
            .into_iter()
            .try_for_each(|kept| kept.write(root))
    }

    /// The numbers of an owner and a group, each by name or number.
    pub fn owner(&self, user: &str, group: &str) -> Result<Owner> {
        let find = |kept: &Kept, what: &str, name: &str| {
            let number = name.parse().ok().or_else(|| kept.table.number(name, 2));
            number
                .ok_or_else(|| Failure(format!("there is no {what} {name} in the image, and none was made")))
        };
        Ok(Owner { uid: find(&self.passwd, "user", user)?, gid: find(&self.group, "group", group)? })
    }

    /// Makes a group, or finds the one of that name; its number.
    pub fn add_group(&mut self, group: &Group) -> Result<u32> {
        let name = &group.name;
        if let Some(there) = self.group.table.number(name, 2) {
            return match group.gid {
                Some(wanted) if wanted != there => failed(format!(
                    "the image has group {name} with number {there}, and the configuration says {wanted}"
                )),
                _ => Ok(there),
            };
        }
        let gid = match group.gid {
            Some(gid) => match self.group.table.by_number(gid, 2) {
                Some(other) => {
                    return failed(format!("group {name} can't have number {gid}: {other} has it"));
                }
                None => gid,
            },
            None => self.free()?,
        };
        self.group.table.add(&[name, "x", &gid.to_string(), ""]);
        if self.gshadow.before.is_some() {
            self.gshadow.table.add(&[name, "!", "", ""]);
        }
        Ok(gid)
    }

    /// Makes a user, or changes the one of that name in what is said.
    pub fn add_user(&mut self, user: &User) -> Result<Account> {
        let name = &user.name;
        let there = self.passwd.table.number(name, 2);
        let uid = match (there, user.uid) {
            (Some(there), Some(wanted)) if there != wanted => {
                return failed(format!(
                    "the image has user {name} with number {there}, and the configuration says {wanted}"
                ));
            }
            (Some(there), _) => there,
            (None, Some(wanted)) => match self.passwd.table.by_number(wanted, 2) {
                Some(other) => {
                    return failed(format!("user {name} can't have number {wanted}: {other} has it"));
                }
                None => wanted,
            },
            (None, None) => self.free()?,
        };
        let own_gid = match (&user.group, there) {
            (None, Some(_)) => self.passwd.table.number(name, 3).doing_what(name)?,
            (group, _) => {
                let group_name = group.clone().unwrap_or_else(|| name.clone());
                let free = self.group.table.by_number(uid, 2).is_none();
                let gid =
                    (group.is_none() && self.group.table.get(&group_name).is_none() && free).then_some(uid);
                self.add_group(&Group { name: group_name, gid })?
            }
        };
        if there.is_none() {
            let home = user.home.clone().unwrap_or_else(|| format!("/home/{name}"));
            let shell = user.shell.as_deref().unwrap_or("/bin/sh");
            self.passwd.table.add(&[name, "x", &uid.to_string(), &own_gid.to_string(), "", &home, shell]);
            // No password fits `*`, and unlike `!` it locks out no SSH key. No day of the last change: no aging.
            self.shadow.table.add(&[name, "*", "", "0", "99999", "7", "", "", ""]);
        } else {
            self.passwd.table.set(name, 3, &own_gid.to_string());
            for (nth, value) in [(5, &user.home), (6, &user.shell)] {
                if let Some(value) = value {
                    self.passwd.table.set(name, nth, value);
                }
            }
        }
        if let Some(hash) = &user.password_hash {
            if self.shadow.table.get(name).is_none() {
                self.shadow.table.add(&[name, "*", "", "0", "99999", "7", "", "", ""]);
            }
            self.shadow.table.set(name, 1, hash);
            self.passwd.table.set(name, 1, "x");
        }
        for group in &user.groups {
            if self.group.table.get(group).is_none() {
                return failed(format!(
                    "user {name} can't be in group {group}: the image has none, and the configuration makes none"
                ));
            }
            self.group.table.add_member(group, 3, name);
            self.gshadow.table.add_member(group, 3, name);
        }
        let home = self.passwd.table.get(name).and_then(|f| f.get(5).cloned()).unwrap_or_default();
        Ok(Account { owner: Owner { uid, gid: own_gid }, home, is_new: there.is_none() })
    }

    /// A number that neither a user nor a group has.
    fn free(&self) -> Result<u32> {
        let taken = |n: &u32| {
            self.passwd.table.by_number(*n, 2).is_some() || self.group.table.by_number(*n, 2).is_some()
        };
        match NUMBERS.into_iter().find(|n| !taken(n)) {
            Some(free) => Ok(free),
            None => failed("the image has no free number for a user or group between 1000 and 60000"),
        }
    }
}

/// A line of passwd(5) whose numbers can't be read.
trait DoingWhat<T> {
    fn doing_what(self, name: &str) -> Result<T>;
}

impl<T> DoingWhat<T> for Option<T> {
    fn doing_what(self, name: &str) -> Result<T> {
        self.ok_or("its line has no number of a group")
            .doing(format!("read user {name} in the image's /etc/passwd"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kept(path: &'static str, text: Option<&str>) -> Kept {
        let before = text.map(Table::parse);
        Kept { path, table: before.clone().unwrap_or_default(), before, owner: Owner::ROOT, mode: 0o600 }
    }

    fn accounts() -> Accounts {
        Accounts {
            passwd: kept(
                "p",
                Some("root:x:0:0:root:/root:/bin/bash\nweb:x:1000:1000::/srv:/bin/sh\n# odd\n"),
            ),
            group: kept("g", Some("root:x:0:\nadm:x:4:\nsudo:x:27:web\nweb:x:1000:\n")),
            shadow: kept("s", Some("root:*:19000:0:99999:7:::\nweb:$6$old:19000:0:99999:7:::\n")),
            gshadow: kept("gs", Some("sudo:*::web\nadm:*::\n")),
        }
    }

    fn user(name: &str) -> User {
        User { name: name.into(), ..User::default() }
    }

    #[test]
    fn a_new_user_gets_a_free_number_its_own_group_and_no_password() {
        let mut a = accounts();
        let made = a.add_user(&User { groups: vec!["sudo".into(), "adm".into()], ..user("ops") }).unwrap();
        let owner = Owner { uid: 1001, gid: 1001 };
        assert_eq!(made, Account { owner, home: "/home/ops".into(), is_new: true });
        assert!(a.passwd.table.text().ends_with("# odd\nops:x:1001:1001::/home/ops:/bin/sh\n"));
        assert!(
            a.group.table.text().contains("sudo:x:27:web,ops\n")
                && a.group.table.text().contains("adm:x:4:ops\n")
        );
        assert!(a.gshadow.table.text().contains("sudo:*::web,ops\n"));
        assert!(a.shadow.table.text().ends_with("ops:*::0:99999:7:::\n"));
        assert_eq!(a.owner("ops", "adm").unwrap(), Owner { uid: 1001, gid: 4 });
        assert_eq!(a.owner("77", "0").unwrap(), Owner { uid: 77, gid: 0 });
        assert!(a.owner("nobody", "root").unwrap_err().0.contains("no user nobody"));
    }

    #[test]
    fn a_user_of_the_image_keeps_what_is_not_said() {
        let mut a = accounts();
        let before = a.passwd.table.text();
        let made = a.add_user(&user("web")).unwrap();
        assert_eq!((made.home.as_str(), made.is_new), ("/srv", false));
        assert_eq!(a.passwd.table.text(), before);
        assert!(a.shadow.table.text().contains("web:$6$old:"));
        let changed =
            User { shell: Some("/bin/zsh".into()), password_hash: Some("$6$new".into()), ..user("web") };
        a.add_user(&changed).unwrap();
        a.add_user(&changed).unwrap();
        assert!(a.passwd.table.text().contains("web:x:1000:1000::/srv:/bin/zsh\n"));
        assert!(a.shadow.table.text().contains("web:$6$new:19000:"));
    }

    #[test]
    fn what_contradicts_the_image_is_refused() {
        let mut a = accounts();
        let said = a.add_user(&User { uid: Some(1000), ..user("ops") }).unwrap_err().0;
        assert!(said.contains("web has it"), "{said}");
        assert!(
            a.add_user(&User { uid: Some(7), ..user("web") }).unwrap_err().0.contains("with number 1000")
        );
        let said = a.add_user(&User { groups: vec!["wheel".into()], ..user("web") }).unwrap_err().0;
        assert!(said.contains("group wheel"), "{said}");
        let group = |name: &str, gid| Group { name: name.into(), gid };
        assert!(a.add_group(&group("new", Some(27))).unwrap_err().0.contains("sudo has it"));
        assert!(a.add_group(&group("adm", Some(5))).is_err());
        assert_eq!(a.add_group(&group("adm", None)), Ok(4));
        assert_eq!(a.add_group(&group("new", Some(2000))), Ok(2000));
    }

    #[test]
    fn an_image_without_shadow_gets_one_only_with_a_user() {
        let mut a = accounts();
        (a.shadow, a.gshadow) = (kept("s", None), kept("gs", None));
        a.add_group(&Group { name: "new".into(), gid: None }).unwrap();
        assert!(a.shadow.table.0.is_empty() && a.gshadow.table.0.is_empty());
        a.add_user(&user("ops")).unwrap();
        assert_eq!(a.shadow.table.text(), "ops:*::0:99999:7:::\n");
    }
}
