"""The role `log`: writes each response to the table `prediction_log`."""
