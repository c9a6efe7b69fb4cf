//! TREE_DISCONNECT (MS-SMB2 2.2.11, 2.2.12): a request and a response without fields.

without_fields!(
    /// TREE_DISCONNECT request.
    Request = "TREE_DISCONNECT request"
);
without_fields!(
    /// TREE_DISCONNECT response.
    Response = "TREE_DISCONNECT response"
);
