"""SMS by Twilio, and by a telephone that forwards its own (android-sms-gateway).

In Twilio's console, for the number or the messaging service:

    A message comes in       https://sms.example/sms        (POST)
    Primary handler fails    https://sms.example/fallback   (POST)

`public_url` is https://sms.example; a reverse proxy hands what it gets on to `listen`, whatever
port and scheme it speaks itself. The status callback is named with each SMS that goes out. In the
telephone's app, sms:received, sms:sent, sms:delivered and sms:failed go to
https://sms.example/android, signed with `android.secret`.
"""
