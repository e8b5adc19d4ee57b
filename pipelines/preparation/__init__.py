"""From stored rows to panels and training windows."""
