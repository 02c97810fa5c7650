//! Strided views: the rows they show, and the ones they refuse.

use std::ptr::NonNull;

use ryz_tmac::{MatMut, MatRef};

#[test]
fn rows_lie_a_stride_apart() {
    let data: Vec<_> = (0..14).collect();
    let whole = MatRef::from_slice(&data, 7);
    assert_eq!((whole.rows(), whole.cols(), whole.stride()), (2, 7, 7));
    assert_eq!(whole.row(1), [7, 8, 9, 10, 11, 12, 13]);
    // The last row needs no padding behind it.
    let padded = MatRef::strided(&data[1..], 3, 3, 5);
    assert_eq!(
        (padded.row(0), padded.row(2)),
        (&[1, 2, 3][..], &[11, 12, 13][..])
    );
    assert_eq!(format!("{padded:?}"), "MatRef(3 × 3, stride 5)");
}

#[test]
fn writing_a_row_touches_nothing_between_the_rows() {
    let mut data = [0; 14];
    let mut view = MatMut::strided(&mut data, 3, 2, 6);
    assert_eq!((view.rows(), view.cols(), view.stride()), (3, 2, 6));
    for row in 0..3 {
        view.reborrow().row_mut(row).fill(row + 1);
        assert_eq!(view.row(row), [row + 1; 2]);
    }
    assert_eq!(data, [1, 1, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3, 3]);
}

#[test]
fn neighbouring_columns_are_written_by_two_threads() {
    let mut data = [0; 40];
    let start = NonNull::from(&mut data[..]).cast::<i32>();
    // SAFETY: rows of 4 elements, 8 apart, lie in the 40; each half is reached through one view.
    let mut left = unsafe { MatMut::from_raw_parts(start, 5, 4, 8) };
    // SAFETY: the fifth element lies in the slice.
    let fifth = unsafe { start.add(4) };
    // SAFETY: as for the left half.
    let mut right = unsafe { MatMut::from_raw_parts(fifth, 5, 4, 8) };
    std::thread::scope(|scope| {
        scope.spawn(move || (0..5).for_each(|row| left.row_mut(row).fill(1)));
        scope.spawn(move || (0..5).for_each(|row| right.row_mut(row).fill(2)));
    });
    assert!(
        data.chunks(4)
            .enumerate()
            .all(|(part, values)| values == [part as i32 % 2 + 1; 4])
    );
}

#[test]
fn views_may_be_empty() {
    assert_eq!(MatRef::from_slice(&[0u8; 0], 3).rows(), 0);
    assert_eq!(MatRef::strided(&[0u8; 0], 0, 3, 4).rows(), 0);
    assert!(MatRef::strided(&[0u8; 0], 5, 0, 0).row(4).is_empty());
    assert_eq!(MatRef::strided(&[1, 2, 3], 1, 3, 0).row(0), [1, 2, 3]);
}

#[test]
fn views_that_do_not_fit_are_refused() {
    let refused = |rows, cols, stride| {
        let view =
            std::panic::catch_unwind(|| MatRef::strided(&[0u8; 12], rows, cols, stride).rows());
        let written =
            std::panic::catch_unwind(|| MatMut::strided(&mut [0u8; 12], rows, cols, stride).rows());
        view.is_err() && written.is_err()
    };
    for (rows, cols, stride) in [
        (3, 4, 5),
        (1, 13, 13),
        (2, 4, 3),
        (usize::MAX, 1, usize::MAX),
        (2, usize::MAX, usize::MAX),
        (3, 1, usize::MAX / 2),
        (2, 1, usize::MAX),
    ] {
        assert!(
            refused(rows, cols, stride),
            "{rows} × {cols}, stride {stride}"
        );
    }
    assert!(!refused(3, 4, 4));
    assert!(!refused(3, 2, 5));
}

#[test]
#[should_panic(expected = "row 2 of 2")]
fn there_is_no_row_past_the_last() {
    MatRef::from_slice(&[0; 6], 3).row(2);
}

#[test]
#[should_panic(expected = "row 2 of 2")]
fn there_is_no_row_to_write_past_the_last() {
    MatMut::from_slice(&mut [0; 6], 3).row_mut(2);
}

#[test]
#[should_panic(expected = "7 elements are no rows of 3")]
fn a_slice_of_no_whole_rows_is_refused() {
    MatRef::from_slice(&[0; 7], 3);
}
