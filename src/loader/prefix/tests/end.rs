//! Pages that end where they may as well have been cut.

use super::*;

fn ended(mut page: Prefix, ids: &[&str]) -> (Prefix, Finish) {
    push(&mut page, ids);
    page.end_proves_nothing();
    let finish = page.finish(true);
    (page, finish)
}

#[test]
fn numbers_that_do_not_ascend_are_not_taken_where_the_end_of_the_page_proves_nothing() {
    let (mut page, finish) = ended(page(after("1"), 1000), &["9", "5"]);
    let rejected = finish.rejected.expect("7 may be missing").to_string();
    for word in ["item ", "Content-Length", "chunks", "sort"] {
        assert!(rejected.contains(word), "{rejected}");
    }
    assert_eq!((finish.dropped, page.take().len(), page.cursor()), (2, 0, after("1")));
    assert!(page.is_out_of_order(), "the row hears of it");
}

#[test]
fn what_ascends_of_a_stream_known_not_to_is_not_taken_there_either() {
    let known = || Prefix::new(after("1"), Some(IdKind::Number), Some(3), false);
    let (mut page, finish) = ended(known(), &["5", "9"]);
    assert!(finish.rejected.is_some_and(|error| error.to_string().contains("`spec.epoch`")), "7 may be missing");
    assert_eq!((finish.dropped, page.take().len(), page.cursor()), (2, 0, after("1")));

    let (mut page, finish) = ended(known(), &["5", "7", "9"]);
    assert_eq!((finish, ids(&page.take()).as_str()), (Finish::default(), "5 7 9"), "of a full page nothing is missing");
    for nothing_new in [&[] as &[&str], &["1"]] {
        assert_eq!(ended(known(), nothing_new).1, Finish::default());
    }
}

#[test]
fn what_ascends_and_what_is_no_number_is_taken_wherever_it_ends() {
    let (mut page, finish) = ended(page(after("1"), 1000), &["5", "9"]);
    assert_eq!((finish, ids(&page.take()).as_str(), page.cursor()), (Finish::default(), "5 9", after("9")));
    for progressive in [true, false] {
        let opaque = Prefix::new(after("f"), Some(IdKind::Opaque), Some(1000), progressive);
        let (mut page, finish) = ended(opaque, &["9", "5"]);
        assert_eq!((finish, ids(&page.take()).as_str(), page.cursor()), (Finish::default(), "9 5", after("5")));
    }
}
