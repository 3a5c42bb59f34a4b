"""What a perceptor sees in a picture: where a text's score comes from, and which words the picture is made of."""
