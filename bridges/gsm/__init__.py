"""GSM modems: SMS over the air, by AT commands on serial lines."""
