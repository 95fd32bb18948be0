"""What weights compute, compared with what others published of them and with what was recorded."""
