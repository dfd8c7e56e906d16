//! The comparator of COLO: decides, frame by frame, whether a primary guest's output may leave.
#![forbid(unsafe_code)]
